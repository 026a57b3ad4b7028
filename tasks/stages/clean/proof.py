"""Measures whether cleaning pays: do repaired labels predict held-out labels better than given ones?

N training samples, K classes, F folds. The measurement is nested. Each fold in turn is held out, whole groups at a
time. The other folds are judged and repaired exactly as `clean` would do it, without a look at the held-out fold. Two
probes use them, one the given and one the repaired labels, and both predict the held-out labels as they were given.
Wrong labels among these cost both probes alike.

The probe is the nearest neighbour. It knows every label by heart, like a network that is trained to the end, so a wrong
label costs what lies near it, and a repair shows. Linear probes average over wrong labels: their gain is several times
smaller and less certain at the same noise, and costs more to measure (`python -m benchmarks.cleaning`).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from tasks.common.cores import on_all_cores
from tasks.common.errors import DataError
from tasks.models.folds import assign_folds, training_masks
from tasks.models.probe import Features, moments, some

MOST = 10_000  # samples to measure on, drawn in whole groups; more make the interval narrower than it need be
CONFIDENCE = 0.95  # of the gain's interval
RESAMPLES = 2000  # of the bootstrap
BLOCK = 4_000_000  # group counts drawn at once by the bootstrap, 32 MB
ROWS, BESIDE = 1000, 1024  # held-out rows, and known rows, compared at once
TINY = 1e-12

Repair = Callable[[Features, np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
# (x, y, groups, clusters) -> (labels to train with, (n,) bool kept)


@dataclass(frozen=True)
class Gain:
    """Shares of held-out labels predicted right, from `given` and from `cleaned` labels, and the gain's interval."""

    given: float
    cleaned: float
    low: float  # of cleaned - given
    high: float
    rows: int  # held-out labels that were predicted
    groups: int

    @property
    def gain(self) -> float:
        return self.cleaned - self.given


def measure_gain(
    x: Features,
    y: np.ndarray,
    classes: int,
    groups: np.ndarray,
    clusters: np.ndarray,
    folds: int,
    seed: int,
    repair: Repair,
) -> Gain | None:
    """The gain of `repair` on held-out labels; None if no group can be held out (each has a class of its own).

    `y` (N,) class numbers or (N, K) of 0 and 1; `groups` and `clusters` (N,) names. `repair` is called from several
    threads.
    """
    rows = sample_groups(groups, MOST, seed)
    x, y, groups, clusters = some(x, rows), y[rows], groups[rows], clusters[rows]
    members = y[:, None] == np.arange(classes) if y.ndim == 1 else y > 0
    present = members.any(axis=0)  # of the classes; a sample may lack some
    members, classes = members[:, present], int(present.sum())
    y = np.searchsorted(np.flatnonzero(present), y) if y.ndim == 1 else y[:, present]
    fold = assign_folds(members, groups, folds, seed + 1)  # other folds than those of the judge
    masks = training_masks(fold, clusters, members, folds)
    scale = moments(x)

    def told_by(number: int) -> np.ndarray:
        """(2, N): how right the labels as given and as repaired predict the rows held out, NaN for all others."""
        right = np.full((2, len(y)), np.nan)
        held, learnt = whole_groups(fold == number, masks[number], groups, members)
        if not held.any():
            return right
        try:
            labels, kept = repair(some(x, learnt), y[learnt], groups[learnt], clusters[learnt])
        except DataError:  # this part alone cannot be judged, e.g. because all of its images have one label
            return right
        of_all, of_kept = nearest(some(x, held), some(x, learnt), kept, scale)
        right[0, held] = _agreement(y[held], y[learnt][of_all])
        right[1, held] = _agreement(y[held], labels[of_kept])
        return right

    right = np.full((2, len(y)), np.nan)
    for found in on_all_cores(told_by, range(folds)):
        right = np.where(np.isnan(found), right, found)
    told = ~np.isnan(right[0])
    if not told.any():
        return None
    given, cleaned = right[:, told].mean(axis=1)
    low, high = interval(right[1, told] - right[0, told], groups[told], seed)
    return Gain(float(given), float(cleaned), low, high, int(told.sum()), len(np.unique(groups[told])))


def nearest(
    x: Features, known: Features, kept: np.ndarray, scale: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Row in `known` (M, D) of highest cosine similarity to each row of `x` (n, D): of all, and of those `kept` (M,).

    Both are standardised by `scale`, the means (D,) and deviations (D,), a few rows at a time.
    """
    rows, best = np.zeros((2, len(x)), np.int64), np.full((2, len(x)), -np.inf, np.float32)
    for part, near in _standardised(x, ROWS, scale):
        for there, beside in _standardised(known, BESIDE, scale):
            beside /= np.maximum(np.linalg.norm(beside, axis=1, keepdims=True), TINY)
            cosine = near @ beside.T  # times the length of `near`, which changes no order
            for which, leave_out in enumerate((None, ~kept[there])):
                if leave_out is not None:
                    cosine[:, leave_out] = -np.inf
                found = cosine.argmax(axis=1)
                highest = cosine[np.arange(len(found)), found]
                better = highest > best[which, part]
                rows[which, part] = np.where(better, there.start + found, rows[which, part])
                best[which, part] = np.maximum(highest, best[which, part])
    return rows[0], rows[1]


def _standardised(x: Features, step: int, scale: tuple[np.ndarray, np.ndarray]) -> Iterator[tuple[slice, np.ndarray]]:
    mean, deviation = scale
    for start in range(0, len(x), step):
        part = slice(start, min(start + step, len(x)))
        rows = x[part].astype(np.float32)
        rows -= mean
        rows /= deviation
        yield part, rows


def _agreement(given: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """(n,) 1 where the labels agree, else 0; multi-label: the share of classes on which they agree."""
    return (given == predicted).astype(float) if given.ndim == 1 else (given == predicted).mean(axis=1)


def whole_groups(
    held: np.ndarray, learnt: np.ndarray, groups: np.ndarray, members: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(rows to predict, rows to train on), (N,) bool each, such that no group is in both and training has every class.

    A class that is in the held-out rows only is trained on instead, and its groups are not predicted.
    """
    absent = ~members[learnt].any(axis=0) & members.any(axis=0)
    learnt = learnt | (members[:, absent].any(axis=1))
    return held & ~np.isin(groups, groups[learnt]), learnt


def sample_groups(groups: np.ndarray, most: int, seed: int) -> np.ndarray:
    """Row numbers of random whole groups, in order, about `most` rows; all rows if there are no more than that."""
    if len(groups) <= most:
        return np.arange(len(groups))
    _, number, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(sizes))
    taken = order[: max(1, int(np.searchsorted(np.cumsum(sizes[order]), most, side="right")))]
    return np.flatnonzero(np.isin(number, taken))


def interval(gain: np.ndarray, groups: np.ndarray, seed: int) -> tuple[float, float]:
    """CONFIDENCE interval of the mean of `gain` (n,), by a paired bootstrap over `groups` (n,)."""
    _, number = np.unique(groups, return_inverse=True)
    total, size = np.bincount(number, gain), np.bincount(number)
    rng, count = np.random.default_rng(seed), len(size)
    block = max(1, BLOCK // count)
    means = []
    for start in range(0, RESAMPLES, block):
        drawn = rng.multinomial(count, np.full(count, 1 / count), size=min(block, RESAMPLES - start))
        means.append((drawn @ total) / (drawn @ size))
    low, high = np.quantile(np.concatenate(means), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)
