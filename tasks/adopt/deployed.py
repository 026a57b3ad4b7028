"""What the user says about a model that is already deployed. S is the side of its input in pixels."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Deployed:
    """What the user says about the model in the file `path`."""

    path: Path
    classes: list[str]  # all of them, in the model's order
    size: int  # S
    mean: Sequence[float]  # of three channels scaled to 0..1
    std: Sequence[float]
    fit: str = "squash"  # as images.fit
    backbone: str | None = None  # timm name; None: the file is ONNX
    features: str | None = None  # name of the ONNX tensor to use as features; None: the last linear layer's input
    bgr: bool = False  # the model reads blue, green, red; mean and std are in its order
    form: str = ""  # of the export that it came in, as people call it
