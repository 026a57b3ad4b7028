"""What an export says about its model. S is the side of the model's input in pixels."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from tasks.adopt.deployed import Deployed
from tasks.common.errors import EvergreenError

HALF = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class Facts:
    """What is known about a deployed model; None for what the export does not say. See Deployed for the fields."""

    form: str  # of the export, as people call it
    path: Path
    classes: list[str] | None = None
    size: int | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    fit: str | None = None
    backbone: str | None = None
    features: str | None = None
    bgr: bool | None = None
    notes: tuple[str, ...] = ()  # sentences for the user: what is not as in the export

    def filled(self, other: "Facts") -> "Facts":
        """These facts, and those of `other` where these say nothing."""
        names = [one.name for one in fields(self) if one.name not in ("form", "path", "notes")]
        missing = {name: getattr(other, name) for name in names if getattr(self, name) is None}
        return replace(self, **missing, notes=self.notes + other.notes)


def deployed(facts: Facts, fit: str) -> Deployed:
    """The model to adopt; `fit`: where nothing says it. Raises EvergreenError for what must be known and is not."""
    if facts.classes is None:
        raise EvergreenError(
            f"{facts.path} ({facts.form}) does not say its classes: give them in the model's order with --classes, a "
            "file with one name per line or a,b,c"
        )
    if facts.size is None:
        raise EvergreenError(
            f"{facts.path} ({facts.form}) does not say the size of its input: give its side in pixels with --resolution"
        )
    return Deployed(
        path=facts.path,
        classes=facts.classes,
        size=facts.size,
        mean=facts.mean or HALF,
        std=facts.std or HALF,
        fit=facts.fit or fit,
        backbone=facts.backbone,
        features=facts.features,
        bgr=bool(facts.bgr),
        form=facts.form,
    )


def square(value: Any, file: Path, what: str) -> int:
    """S of `value`: a number, [height, width] or {height, width}. Raises EvergreenError unless it is a square."""
    if isinstance(value, dict):
        value = [value.get("height"), value.get("width")]
    sides = value if isinstance(value, list) else [value]
    if len(sides) not in (1, 2) or not all(isinstance(one, int) and 8 <= one <= 4096 for one in sides):
        raise EvergreenError(f"{file}: {what} is {value!r}: expected a side of 8 to 4096 pixels")
    if sides[0] != sides[-1]:
        raise EvergreenError(
            f"{file}: {what} is {sides[0]} x {sides[-1]} pixels: only square input can be adopted, for Evergreen makes "
            "every image square"
        )
    return sides[0]


def triple(value: Any, file: Path, what: str) -> list[float]:
    """Three finite numbers of `value`, a list; one number stands for all three."""
    found = value * 3 if isinstance(value, list) and len(value) == 1 else value
    numbers = isinstance(found, list) and all(isinstance(one, (int, float)) and math.isfinite(one) for one in found)
    if not numbers or len(found) != 3:
        raise EvergreenError(f"{file}: {what} is {value!r}: expected three numbers, one per colour channel")
    return [float(one) for one in found]
