"""What a format is given, and what it hands back.

Each format is one module of this package with a function `write(source, folder) -> Written`; `formats.FORMATS` lists
them. N images, S the side of the input in pixels, K classes, D feature dimensions.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tasks.inference.onnx_model import Outputs

BOUND = 1e-4  # largest difference in probability from model.onnx; of logits and features, ten times that, relative


@dataclass(frozen=True)
class Source:
    """A whole bundle, verified, and how its export is called."""

    bundle: Path
    about: dict[str, Any]  # bundle.json
    version: str
    uri: str | None = None  # where the owner will put the folder, for formats that name it

    @property
    def model(self) -> Path:
        """The exported network: uint8 (N, S, S, 3) named `images` in; logits, probabilities and features out."""
        return self.bundle / "model.onnx"

    @property
    def side(self) -> int:
        """S, pixels."""
        return self.about["preprocess"]["resolution"]

    @property
    def classes(self) -> list[str]:
        """The K class names, in the model's order."""
        return self.about["classes"]

    @property
    def name(self) -> str:
        """The model's name, in letters that every server accepts."""
        return "".join(letter if letter.isascii() and letter.isalnum() else "_" for letter in self.about["name"])


@dataclass(frozen=True)
class Written:
    """How to check what a format wrote, and what its record says."""

    run: Callable[[np.ndarray], Outputs]  # (N, S, S, 3) uint8 to the answers, for each N of `sizes`
    checked: str  # what `run` runs: "model.xml under OpenVINO"
    tools: tuple[str, ...] = ()  # distributions whose versions the record names
    not_run: str = ""  # why the written file itself cannot be run here; "": it was
    sizes: tuple[int, ...] = (64, 5, 1)  # images at once, in passes of the check that see all images
    bound: float = BOUND
