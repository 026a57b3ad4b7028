"""What int8 costs and gains, class by class: for bundle.json, the terminal and the model card.

N images, K classes.
"""

from collections.abc import Sequence

import numpy as np

from tasks.common.checks import Frozen


class ClassLoss(Frozen):
    """Right answers among the test images of one class, in percent, before and after, and images."""

    name: str
    images: int
    float_right: float
    int8_right: float

    @property
    def lost(self) -> float:
        return self.float_right - self.int8_right


class Quantised(Frozen):
    """What bundle.json says about the int8 model, and what a person decides by."""

    of: str  # digest of the float bundle
    parts: int  # of the network
    in_float: list[int]  # parts that stay in float, most sensitive first
    loss: float  # mean divergence in nats an image, on calibration images
    images: int  # that ranges were measured on
    speedup: float  # float time / int8 time for single images on the machine that made it
    size_before_mb: float
    size_mb: float
    changed: float  # percent of test images with another answer
    lost: float  # points of accuracy on test (multi-label: of right labels)
    classes: list[ClassLoss]

    def sentence(self) -> str:
        """What it gains and costs, for a run's record."""
        worst = max(self.classes, key=lambda one: one.lost)
        return (
            f"Single images are {self.speedup:.2f} times as fast; accuracy lost on test: {self.lost:+.2f} points, most "
            f"for {worst.name} ({worst.lost:+.1f} of {worst.images} images)."
        )

    def lines(self) -> list[str]:
        """Describe it for the terminal."""
        width = max(len(one.name) for one in self.classes)
        kept = f"{len(self.in_float)} of {self.parts} parts stay in float"
        found = [
            f"int8: {self.speedup:.2f} times as fast on single images here, {self.size_before_mb:.1f} MB become "
            f"{self.size_mb:.1f} MB; {kept} (divergence {self.loss:.4f} nats)",
            f"  on test, {self.changed:.1f} % of the answers changed; accuracy lost: {self.lost:+.2f} points",
            f"  {'class':<{width}}  images   float    int8    lost",
        ]
        for one in sorted(self.classes, key=lambda one: -one.lost):
            shares = f"{one.float_right:5.1f} %  {one.int8_right:5.1f} %  {one.lost:+5.1f}"
            found.append(f"  {one.name:<{width}}  {one.images:>6}  {shares}")
        return found


def by_class(targets: np.ndarray, before: np.ndarray, after: np.ndarray, classes: Sequence[str]) -> list[ClassLoss]:
    """Right answers before and after for each class with test images. (N,) class numbers, or (N, K) labels."""
    found = []
    for k, name in enumerate(classes):
        own = targets == k if targets.ndim == 1 else targets[:, k] > 0
        if not own.any():
            continue
        right = [(part[own] == k) if part.ndim == 1 else part[own][:, k] > 0 for part in (before, after)]
        shares = [round(100 * float(part.mean()), 2) for part in right]
        found.append(ClassLoss(name=name, images=int(own.sum()), float_right=shares[0], int8_right=shares[1]))
    return found
