"""Compare two ways of making features by the out-of-fold predictions of a linear probe.

N samples, K classes, D feature dimensions, F folds.
"""

from dataclasses import dataclass

import numpy as np

from tasks.models import probe
from tasks.models.folds import assign_folds

FOLDS = 5
RESAMPLES = 1000
CONFIDENCE = 0.95  # two-sided
SEED = 0


@dataclass(frozen=True)
class Gain:
    """How many points of balanced accuracy one way is better than another, with an interval."""

    points: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.points:+.1f} points ({self.low:+.1f} to {self.high:+.1f})"


def out_of_fold(x: np.ndarray, y: np.ndarray, groups: np.ndarray, copies: np.ndarray | None = None) -> np.ndarray:
    """(N,) class numbers, or (N, K) of 0 and 1: predictions for `x` (N, D) by probes that saw no sample of the fold.

    `y` (N,) class numbers, or (N, K) of 0 and 1. `groups` (N,) names: a group lies in one fold. `copies` (N, D):
    changed copies of the samples, which the probes train on as well.
    """
    classes = int(y.max()) + 1 if y.ndim == 1 else y.shape[1]
    members = y[:, None] == np.arange(classes) if y.ndim == 1 else y > 0
    fold = assign_folds(members, groups, FOLDS, SEED)
    masks = np.stack([fold != number for number in range(FOLDS)]).astype(np.float32)
    rows, targets = x, y
    if copies is not None:
        rows, targets, masks = np.concatenate([x, copies]), np.concatenate([y, y]), np.tile(masks, 2)
    logits = probe.select_logits(probe.fit_many(rows, targets, classes, masks), x, fold)
    return logits.argmax(axis=1) if y.ndim == 1 else (logits > 0).astype(y.dtype)


def credits(predicted: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(N,) each sample's part of the balanced accuracy: they add up to it.

    Multi-label: the mean over classes of the balanced accuracy of "present or absent". Classes without both are left
    out.
    """
    if y.ndim == 1:
        counts = np.bincount(y)
        return (predicted == y) / (counts[y] * np.count_nonzero(counts))
    present = y.sum(axis=0)
    judged = (present > 0) & (present < len(y))
    weight = np.where(y > 0, 0.5 / np.maximum(present, 1), 0.5 / np.maximum(len(y) - present, 1))
    return ((predicted == y) * weight)[:, judged].sum(axis=1) / max(1, judged.sum())


def paired_gain(before: np.ndarray, after: np.ndarray, groups: np.ndarray, comparisons: int = 1) -> Gain:
    """`after` minus `before`, credits (N,) of the same samples; the interval comes from resampled groups.

    comparisons: made together; with more, the interval is wider (Bonferroni), because the best of many may be luck.
    """
    _, group = np.unique(groups, return_inverse=True)
    sums = np.bincount(group, weights=after - before)
    draws = np.random.default_rng(SEED).multinomial(len(sums), np.full(len(sums), 1 / len(sums)), RESAMPLES)
    tail = (1 - CONFIDENCE) / 2 / comparisons
    low, high = np.quantile(draws @ sums, [tail, 1 - tail])
    return Gain(100 * float(sums.sum()), 100 * float(low), 100 * float(high))
