"""Small trainings on made-up images: seconds on one core."""

import os
import sys
from pathlib import Path

import numpy as np
import torch
import yaml

from tasks.backbones import timm_models
from tasks.common.params import TrainBackboneParams
from tasks.common.sections.training import UnfreezePhases
from tasks.stages.train_backbone import feeding
from tasks.stages.train_backbone.processes import Ranks
from tests.support.checkout import ROOT

ONE = Ranks(0, 1, torch.device("cpu"))
SCRATCH = TrainBackboneParams(  # 4 epochs of a small network from random weights
    backbone="test_efficientnet",
    pretrained="none",
    epochs=UnfreezePhases(frozen=1, last=2, all=2),
    batch_size=16,
    learning_rate=0.01,
    augment=["crop", "flip", "erase"],
)
STAGED = SCRATCH.model_copy(update={"pretrained": "auto", "epochs": UnfreezePhases(frozen=2, last=2, all=2)})


def examples(seed: int = 0, multilabel: bool = False, width: int = 256) -> feeding.Examples:
    """36 noise images whose class is told by which colour is bright; features (36, width) are made up likewise."""
    rng = np.random.default_rng(seed)
    targets = np.repeat(np.arange(3), 12)
    pixels = rng.integers(0, 100, (len(targets), 32, 32, 3), np.uint8)
    pixels[np.arange(len(targets)), :, :, targets] += 120
    features = rng.normal(size=(len(targets), width)).astype(np.float16)
    features[np.arange(len(targets)), targets] += 3
    y = np.eye(3, dtype=np.float32)[targets] if multilabel else targets
    return feeding.Examples(pixels, features, y)


def small(name: str = "test_efficientnet") -> torch.nn.Module:
    torch.manual_seed(0)
    return timm_models.create_model(name, "none", 3, 32)


def setting(params: TrainBackboneParams, **changes) -> feeding.Setting:
    params = params.model_copy(update=changes)
    return feeding.Setting(params, 3, (0.5,) * 3, (0.5,) * 3, ONE)


def write_params(root: Path, params: TrainBackboneParams) -> None:
    """Make `params` the settings of train_backbone in the project `root`."""
    values = yaml.safe_load((root / "params.yaml").read_text())
    (root / "params.yaml").write_text(yaml.safe_dump(values | {"train_backbone": params.model_dump()}))


def stage_command(*before: str) -> list[str]:
    """The command of the stage; `before`: the module that starts it, such as torchrun's, with options."""
    return [sys.executable, "-m", *before, "tasks.stages", "train_backbone"]


def stage_environment(extra: dict[str, str] | None = None) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **(extra or {})}


def checkpoints(root: Path) -> list[Path]:
    return list((root / ".evergreen/cache/training").glob("*/*.safetensors"))
