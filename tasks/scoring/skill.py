"""Measures how much better than chance a classifier is on held-out images, in groups or not.

N samples, K classes, G groups. Balanced accuracy is a weighted share of right decisions: multi-class, each image weighs
1 / (images of its class x classes that have images); multi-label, each image has a decision per class. Images of one
group (one object, one session) tend to be right or wrong together, so the group is the unit of observation.

The interval is that of Korn & Graubard 1998, "Confidence intervals for proportions with small expected number of
positive counts estimated from survey data": the exact (Clopper-Pearson) interval for an effective number of
observations, which follows from the variance between groups and shrinks with few groups. A plain bootstrap of a few
groups is far too narrow: five groups that happen to be right have no variance at all.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tasks.scoring.groups import group_numbers
from tasks.scoring.metrics import one_hot

CONFIDENCE = 0.95
TINY = 1e-12  # variance of rounding alone
FLOOR = 0.5  # balanced accuracy under which a first model is provisional ...
OVER_CHANCE = 1.5  # ... or this many times chance, where that is more: with two classes a half is chance


@dataclass(frozen=True)
class Skill:
    """Balanced accuracy on held-out images, its interval, and what the best constant answer would have."""

    value: float
    low: float
    high: float
    chance: float
    images: int
    groups: int
    confidence: float = CONFIDENCE

    @property
    def shown(self) -> bool:
        """Whether the model is better than a constant answer by more than luck."""
        return self.low > self.chance

    @property
    def floor(self) -> float:
        return max(FLOOR, OVER_CHANCE * self.chance)

    @property
    def reason(self) -> str:
        """Why the model is provisional, if it is."""
        return (
            f"balanced accuracy {self.value:.3f} on {self.images} test images (95 % interval {self.low:.3f} to "
            f"{self.high:.3f}, chance {self.chance:.3f}) is below {self.floor:.3g}, the floor of a first model"
        )

    @property
    def provisional(self) -> bool:
        """Whether the model is below the floor of a first model."""
        return self.value < self.floor


def measure_skill(
    targets: np.ndarray,
    predicted: np.ndarray,
    classes: int,
    groups: Sequence[str | None],
    confidence: float = CONFIDENCE,
) -> Skill:
    """The skill of `predicted` on `targets` (as in tasks.scoring.metrics) of images in `groups` (N names or None)."""
    weight, right = _decisions(targets, predicted, classes)
    number = group_numbers(groups)
    value = round(float(weight[right].sum()), 9)  # 0.5 is not below 0.5 by rounding
    low, high = share_interval(weight, right, number, value, confidence)
    chance = 0.5 if targets.ndim == 2 else 1 / max(len(np.unique(targets)), 1)
    groups_there = int(number.max()) + 1 if len(number) else 0
    return Skill(value, low, high, chance, len(targets), groups_there, confidence)


def _decisions(targets: np.ndarray, predicted: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """(weight, right) of every decision, (N, K); the weights sum to 1 where any class has images."""
    truth, answer = one_hot(targets, classes), one_hot(predicted, classes)
    positive = truth.sum(axis=0)
    if targets.ndim == 1:
        weight = np.where(truth, 1 / np.maximum(positive, 1), 0.0)
        return weight / max((positive > 0).sum(), 1), truth & answer
    negative = len(truth) - positive
    usable = (positive > 0) & (negative > 0)
    weight = np.where(truth, 1 / np.maximum(positive, 1), 1 / np.maximum(negative, 1)) * usable
    return weight / max(2 * usable.sum(), 1), truth == answer


def share_interval(
    weight: np.ndarray, right: np.ndarray, group: np.ndarray, value: float, confidence: float
) -> tuple[float, float]:
    """(low, high) of `value`, the sum of `weight` (N, K) where `right`; group: (N,) numbers.

    `right` is bool, or partly right: 0 to 1. The weights sum to 1.
    """
    from scipy.special import stdtrit

    groups = int(group.max()) + 1 if len(group) else 0
    if groups < 2 or not weight.any():
        return 0.0, 1.0  # one observation proves nothing
    images = 1 / np.square(weight.sum(axis=1)).sum()  # effective number of images, all of them independent
    residual = np.bincount(group, (weight * (right - value)).sum(axis=1))
    variance = np.square(residual).sum() * groups / (groups - 1)
    if variance > TINY:
        effective = min(value * (1 - value) / variance, images)
    else:  # all right or all wrong: whether the images of a class in a group differ cannot be told
        cells = np.zeros((groups, weight.shape[1]))
        np.add.at(cells, group, weight)
        effective = 1 / np.square(cells).sum()
    tail = (1 - confidence) / 2
    freedom = stdtrit(images - 1 if images > 1 else 1, 1 - tail) / stdtrit(groups - 1, 1 - tail)
    return exact_interval(value * effective * freedom**2, effective * freedom**2, tail)


def exact_interval(count: float, n: float, tail: float) -> tuple[float, float]:
    """Clopper-Pearson's interval of the share `count` / `n`, which need not be whole numbers."""
    from scipy.special import betaincinv

    low = float(betaincinv(count, n - count + 1, tail)) if count > 0 else 0.0
    high = float(betaincinv(count + 1, n - count, 1 - tail)) if count < n else 1.0
    return low, high
