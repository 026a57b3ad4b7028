"""Models as a user has deployed them, made from the small project."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import onnx
import torch

from tasks.adopt.deployed import Deployed
from tasks.common.params import load_params
from tests.support.small_project import CLASSES, SIZE

HALF = (0.5, 0.5, 0.5)
YOLO = {"names": str(dict(enumerate(CLASSES))), "imgsz": f"[{SIZE}, {SIZE}]", "task": "classify"}


def to_onnx(path: Path, net: torch.nn.Module, batch=True, side=SIZE, **options) -> Path:
    torch.onnx.export(
        net,
        (torch.zeros(2 if batch else 1, 3, side, side),),
        str(path),
        input_names=["pixel_values"],
        output_names=["scores"],
        dynamic_axes={"pixel_values": {0: "batch"}, "scores": {0: "batch"}} if batch else None,
        dynamo=False,
        **options,
    )
    return path


def deployed(path: Path, **changes) -> Deployed:
    return replace(Deployed(path=path, classes=CLASSES, size=SIZE, mean=HALF, std=HALF), **changes)


def fast(root: Path):
    params = load_params(root / "params.yaml")
    quick = {"corruptions": ["dark"], "corruption_images": 20, "latency_runs": 5}
    return params.model_copy(update={"evaluate": params.evaluate.model_copy(update=quick)})


def edit(path: Path, change: Callable) -> Path:
    """Change the ONNX model at `path` in place."""
    model = onnx.load(path)
    change(model)
    onnx.save(model, path)
    return path
