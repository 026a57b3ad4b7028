"""Measures whether cleaning pays: do repaired labels predict held-out labels better than given ones?

N training samples, K classes, F folds. The measurement is nested. Each fold in turn is held out, whole groups at a
time. The other folds are judged and repaired exactly as `clean` would do it, without a look at the held-out fold. Two
probes use them, one the given and one the repaired labels, and both predict the held-out labels as they were given.
Wrong labels among these cost both probes alike.

The probe is the nearest neighbour. It knows every label by heart, like a network that is trained to the end, so a wrong
label costs what lies near it, and a repair shows. Linear probes average over wrong labels: their gain is several times
smaller and less certain at the same noise, and costs more to measure (`python -m benchmarks.cleaning`).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tasks.common.cores import on_all_cores
from tasks.models.folds import assign_folds, training_masks
from tasks.models.standardised import Features, chunks, moments, some

MOST = 10_000  # samples to measure on, drawn in whole groups; more make the interval narrower than it need be
CONFIDENCE = 0.95  # of the gain's interval
RESAMPLES = 2000  # of the bootstrap
BLOCK = 200_000  # groups drawn at once by the bootstrap
ROWS = 512  # compared with as many at once
TINY = 1e-12

Repair = Callable[
    [Features, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray], list[tuple[np.ndarray, np.ndarray] | None]
]  # (x, y, groups, clusters, fold, parts (P, N) bool) -> for each part (labels to train with, (n,) bool kept)


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

    `y` (N,) class numbers or (N, K) of 0 and 1; `groups` and `clusters` (N,) names. `repair` is called once, with the
    rows to learn from while each of the folds is held out. It sees all of them, and must look at one part at a time. It
    says None of a part that it cannot repair.
    """
    rows = sample_groups(groups, MOST, seed)
    fold = assign_folds(_members(y[rows], classes), groups[rows], folds, seed + 1)  # not those of the judge
    order = np.argsort(fold, kind="stable")  # the rows of a fold lie together: what leaves it out leaves out blocks
    rows, fold = rows[order], fold[order]
    x, y, groups, clusters = some(x, rows), y[rows], groups[rows], clusters[rows]
    members = _members(y, classes)
    present = members.any(axis=0)  # of the classes; a sample may lack some
    members, classes = members[:, present], int(present.sum())
    y = np.searchsorted(np.flatnonzero(present), y) if y.ndim == 1 else y[:, present]
    masks = training_masks(fold, clusters, members, folds)
    divided = [whole_groups(fold == number, masks[number], groups, members) for number in range(folds)]
    divided = [(held, learnt) for held, learnt in divided if held.any()]
    if not divided:
        return None
    held, learnt = (np.array(side) for side in zip(*divided, strict=True))
    answers = repair(x, y, groups, clusters, fold, learnt)
    known = [number for number, answer in enumerate(answers) if answer is not None]
    if not known:
        return None
    held, learnt, kept = held[known], learnt[known], learnt[known]
    labels = np.repeat(y[None], len(known), axis=0)
    for number, place in enumerate(known):
        labels[number, learnt[number]], kept[number, learnt[number]] = answers[place]
    of_all, of_kept = nearest(x, held, learnt, kept, moments(x))
    told = held.any(axis=0)
    number = held.argmax(axis=0)
    right = np.stack([_agreement(y, y[of_all]), _agreement(y, labels[number, of_kept])])[:, told]
    given, cleaned = right.mean(axis=1)
    low, high = interval(right[1] - right[0], groups[told], seed)
    return Gain(float(given), float(cleaned), low, high, int(told.sum()), len(np.unique(groups[told])))


def nearest(
    x: Features, held: np.ndarray, learnt: np.ndarray, kept: np.ndarray, scale: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """For each row of `x` (N, D) the row of highest cosine similarity, of those learnt and of those kept, (N,) each.

    held, learnt, kept: (P, N) bool, for P parts. A row is held in one part at most, and compared with what that part
    has learnt (0 if it is held in none). Features are standardised by `scale`, the means (D,) and deviations (D,).
    Each pair of rows is multiplied once, for both.
    """
    part_of = np.where(held.any(axis=0), held.argmax(axis=0), -1)
    blocks = [slice(start, min(start + ROWS, len(x))) for start in range(0, len(x), ROWS)]
    wanted = np.array([[learnt[np.unique(part_of[a][part_of[a] >= 0])][:, b].any() for b in blocks] for a in blocks])

    def compared(first: int) -> list[tuple[slice, np.ndarray, np.ndarray]]:
        """(rows, their nearest, (2, n) each: its row and cosine) of block `first` with itself and those after it."""
        found, near = [], _units(x, blocks[first], scale)
        for second in range(first, len(blocks)):
            if not (wanted[first, second] or wanted[second, first]):
                continue
            cosine = near @ (near if second == first else _units(x, blocks[second], scale)).T
            for a, b, values in ((first, second, cosine), (second, first, cosine.T))[: 1 + (second > first)]:
                if wanted[a, b]:
                    places, best = _highest(values, part_of[blocks[a]], learnt[:, blocks[b]], kept[:, blocks[b]])
                    found.append((blocks[a], places + blocks[b].start, best))
        return found

    rows, best = np.zeros((2, len(x)), np.int64), np.full((2, len(x)), -np.inf, np.float32)
    for found in on_all_cores(compared, range(len(blocks))):
        for part, places, highest in found:
            better = highest > best[:, part]
            rows[:, part] = np.where(better, places, rows[:, part])
            best[:, part] = np.maximum(highest, best[:, part])
    return rows[0], rows[1]


def _highest(
    cosine: np.ndarray, part_of: np.ndarray, learnt: np.ndarray, kept: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(2, n) columns of `cosine` (n, m) with the highest values, of those learnt and of those kept, and these values.

    part_of: (n,) part of each row, -1: none; learnt, kept: (P, m).
    """
    places, best = np.zeros((2, len(cosine)), np.int64), np.full((2, len(cosine)), -np.inf, np.float32)
    for number in np.unique(part_of[part_of >= 0]):
        rows = np.flatnonzero(part_of == number)
        values = np.ascontiguousarray(cosine[rows])
        values[:, ~learnt[number]] = -np.inf
        places[:, rows] = found = values.argmax(axis=1)
        best[:, rows] = values[np.arange(len(rows)), found]
        again = ~kept[number][found]  # only these have another nearest of those kept
        rows, values = rows[again], values[again]
        values[:, ~kept[number]] = -np.inf
        places[1, rows] = found = values.argmax(axis=1)
        best[1, rows] = values[np.arange(len(rows)), found]
    return places, best


def _units(x: Features, part: slice, scale: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Rows `part` of `x`, standardised, of length 1."""
    rows = next(chunks(some(x, part), size=part.stop - part.start))[1]
    rows -= scale[0]
    rows /= scale[1]
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), TINY)
    return rows


def _members(y: np.ndarray, classes: int) -> np.ndarray:
    """(N, K) bool: the classes of each label."""
    return y[:, None] == np.arange(classes) if y.ndim == 1 else y > 0


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
        drawn = rng.integers(0, count, size=(min(block, RESAMPLES - start), count), dtype=np.int32)
        means.append(total[drawn].sum(axis=1) / size[drawn].sum(axis=1))
    low, high = np.quantile(np.concatenate(means), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)
