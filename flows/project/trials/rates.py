"""Finds a learning rate on a project's training images, for `evergreen experiment --find-rate`."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from tasks.common.errors import EvergreenError
from tasks.common.params import load_params

MOST = 4_000  # images: more are not seen in the steps that are tried
SHOWN = 12  # rates of the curve that are printed


def find_project_rate(root: Path, steps: int, say: Callable[[str], None]) -> float | None:
    """Try rising learning rates with the settings of params.yaml; returns the one to take, None if none helps.

    Only the caches of pixels and features are written. Raises EvergreenError with fewer than two classes.
    """
    import torch

    from flows.project.trials.rate_finder import find_rate
    from tasks.active.samples import class_names, live_samples, of_split
    from tasks.backbones import timm_models
    from tasks.dataset.shards import read_task
    from tasks.models.extended import Structure, extend
    from tasks.scoring.targets import encode
    from tasks.stages.train_backbone.feeding import Examples, Setting
    from tasks.stages.train_backbone.processes import Ranks
    from tasks.stages.train_backbone.stage import inputs

    params = load_params(root / "params.yaml")
    stage, images = params.train_backbone, params.images
    rows = of_split(live_samples(root, params), "train", True)
    if len(classes := class_names(rows["label"])) < 2:
        raise EvergreenError(
            f"the training images of data/ have labels of {len(classes)} classes: a rate is found on at least two"
        )
    if len(rows) > MOST:
        rows = rows.take(np.sort(np.random.default_rng(0).choice(len(rows), MOST, replace=False)))
    pixels, features = inputs(root, "train", rows, stage, images)
    targets = encode(rows["label"], classes, read_task(root / "data"))
    torch.manual_seed(stage.seed)
    model = timm_models.create_model(stage.backbone, stage.pretrained, len(classes), images.resolution, stage.drop_path)
    model = extend(model, Structure(stage.head, stage.pooling, stage.attention_crop), images.resolution)
    mean, std = timm_models.normalisation(stage.backbone)
    how = Setting(stage, len(classes), mean, std, Ranks(0, 1, timm_models.device()), side=images.resolution)
    say(f"{steps} steps at rising rates on {len(rows)} training images, optimizer {stage.optimizer}")
    curve = find_rate(model, Examples(pixels, features, targets), how, steps)
    for number in range(0, len(curve.rates), max(1, len(curve.rates) // SHOWN)):
        say(f"  learning_rate {curve.rates[number]:8.2g}  loss {curve.losses[number]:.3f}")
    return curve.suggestion
