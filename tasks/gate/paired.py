"""Compares two classifiers on the same N images: difference, interval, and chance of it by luck.

K classes. `targets`, `new` and `old` are labels and two models' answers, (N,) class indices or (N, K) bool. All
differences are new minus old. Two questions, two methods:

- The interval: a paired bootstrap over images (Efron & Tibshirani 1993). For multi-class balanced accuracy it is
  stratified by class. Classes of few images form one stratum: a class of one image, resampled by itself, would never
  vary and would look certain.
- The chance that equal models differ by this much: a paired randomisation test (Yeh 2000, "More accurate tests for the
  statistical significance of result differences"). If the models are equal, either could have given either of the two
  answers to an image. Exact for any metric and any support; for the recall of one class it is McNemar's exact test.

Images of one group (one object, session or burst of near-duplicates) tend to be answered alike: both methods draw and
swap whole groups. By image, five shots of one object would count as five proofs.

Images with the same label and the same two answers are interchangeable, so both methods work on counts of such cells.
Time and memory depend on the number of cells and of groups with several images, not on N.
"""

import math
from dataclasses import dataclass

import numpy as np

from tasks.scoring.intervals import paired_difference, two_sided
from tasks.scoring.metrics import Counts, Metric, metric_of, one_hot

NOISE = 0.95  # share of pairs of equal models that lie closer together than `Difference.noise`
BLOCK = 4_000_000  # numbers in memory at once while resampling


@dataclass(frozen=True)
class Difference:
    """New minus old on `n` images; `low` to `high` is its interval at the requested confidence."""

    n: int
    new: float
    old: float
    low: float
    high: float
    p_better: float  # chance of a gain at least this large if the models are equal (one-sided)
    p_worse: float  # chance of a loss at least this large if the models are equal (one-sided)
    gained: int | None = None  # images only the new model has right; None: not paired
    lost: int | None = None  # images only the old model has right
    groups: int | None = None  # groups that the images lie in; None: each is one of its own
    noise: float | None = None  # equal models that differ on these images lie apart by less, 95 % of the time

    @property
    def value(self) -> float:
        return self.new - self.old

    @property
    def mcnemar(self) -> float:
        """Two-sided exact p of McNemar's test on whole answers; only for paired figures."""
        better, worse = mcnemar(self.gained, self.lost)
        return min(1.0, 2 * min(better, worse))


def mcnemar(gained: int, lost: int) -> tuple[float, float]:
    """One-sided exact p values (new is better, new is worse): binomial over the images that one model has right."""
    from scipy.special import bdtrc  # scipy.stats.binom.sf, the same function, takes half a second to import

    number = gained + lost
    return float(bdtrc(gained - 1, number, 0.5)), float(bdtrc(lost - 1, number, 0.5))


def compare_hits(
    new: np.ndarray,
    old: np.ndarray,
    confidence: float,
    groups: np.ndarray | None = None,
    resamples: int = 2000,
) -> Difference:
    """Difference of two shares of the same images: new, old (N,) bool, N > 0; groups as in `compare`.

    Without groups of several images it is exact, and the interval is Agresti & Min's.
    """
    if _several(groups):
        truth = np.ones(len(new), np.int64)
        hits = (answer.astype(np.int64) for answer in (new, old))
        return compare("accuracy", truth, *hits, 2, confidence=confidence, resamples=resamples, few=1, groups=groups)
    n, gained, lost = len(new), int((new & ~old).sum()), int((~new & old).sum())
    low, high = paired_difference(gained, lost, n, two_sided(confidence))
    better, worse = mcnemar(gained, lost)
    return Difference(n, float(new.mean()), float(old.mean()), low, high, better, worse, gained, lost)


def compare(
    metric: Metric,
    targets: np.ndarray,
    new: np.ndarray,
    old: np.ndarray,
    classes: int,
    *,
    confidence: float,
    resamples: int,
    few: int,
    groups: np.ndarray | None = None,
    seed: int = 0,
) -> Difference:
    """Difference of `metric` between the answers `new` and `old`; the same input gives the same result.

    few: classes with fewer images share a stratum of the bootstrap. groups: (N,) numbers; images of one number are
    drawn and swapped together. The smallest p is 1 / (resamples + 1). Figures are NaN where the metric is not defined
    (no class has an image). Raises ValueError for no images.
    """
    if not len(targets):
        raise ValueError("compare: expected at least 1 image, found 0")
    task = "multiclass" if targets.ndim == 1 else "multilabel"
    if task == "multiclass" and metric != "macro_f1":  # which wrong class was answered does not matter: fewer cells
        new, old = (np.where(answer == targets, answer, -1) for answer in (new, old))
    units = _units(targets, new, old, groups, classes)
    number, mine, theirs = units.number, units.mine, units.theirs

    def score(totals: np.ndarray, size: np.ndarray) -> np.ndarray:
        return metric_of(metric, _as_counts(totals, size, classes), task)

    rng = np.random.default_rng(seed)
    balanced = (metric, task) == ("balanced_accuracy", "multiclass")
    strata = _strata(units.stratum, number, few) if balanced else None
    block = max(1, BLOCK // (len(number) + 4 * classes))
    differences = []
    for start in range(0, resamples, block):
        drawn = _bootstrap(rng, number, strata, min(block, resamples - start))
        size = drawn @ units.images
        differences.append(score(drawn @ mine, size) - score(drawn @ theirs, size))
    low, high = _quantiles(np.concatenate(differences), confidence)

    size = np.asarray(number @ units.images)
    first, second = score(number @ mine, size), score(number @ theirs, size)
    swap = mine - theirs
    shift = np.flatnonzero(abs(swap).sum(axis=1))  # the units on which the models differ
    swap, swapped = swap[shift], number[shift]
    better, worse, chances = 1, 1, []
    for start in range(0, resamples, block):
        moved = rng.binomial(swapped, 0.5, size=(min(block, resamples - start), len(swapped))) @ swap
        chance = score(number @ mine - moved, size) - score(number @ theirs + moved, size)
        better += int((chance >= first - second - 1e-12).sum())
        worse += int((chance <= first - second + 1e-12).sum())
        chances.append(np.abs(chance))
    noise = float(np.quantile(np.concatenate(chances), NOISE))
    return Difference(
        n=int(size),
        new=float(first),
        old=float(second),
        low=low,
        high=high,
        p_better=better / (resamples + 1),
        p_worse=worse / (resamples + 1),
        gained=units.gained,
        lost=units.lost,
        groups=int(number.sum()) if _several(groups) else None,
        noise=noise if math.isfinite(noise) else None,
    )


def _several(groups: np.ndarray | None) -> bool:
    """Whether any group has several images."""
    return groups is not None and len(np.unique(groups)) < len(groups)


@dataclass(frozen=True)
class _Units:
    """U kinds of what is drawn and swapped as a whole: cells of interchangeable images, and groups of several."""

    number: np.ndarray  # (U,) how many there are of this kind
    images: np.ndarray  # (U,) images of one
    mine: np.ndarray  # sparse (U, 3 K + 1), see _outcomes
    theirs: np.ndarray  # sparse (U, 3 K + 1)
    stratum: np.ndarray  # (U,) class of all its images; -1: of several, or multi-label
    gained: int  # images only the new model has right
    lost: int


def _units(targets: np.ndarray, new: np.ndarray, old: np.ndarray, groups: np.ndarray | None, classes: int) -> _Units:
    from scipy import sparse

    cells, place, number = _cells(targets, new, old)
    mine, theirs = _outcomes(cells[0], cells[1], classes), _outcomes(cells[0], cells[2], classes)
    right, wrong = mine[:, [-1]].toarray()[:, 0], theirs[:, [-1]].toarray()[:, 0]
    gained, lost = int(number[right > wrong].sum()), int(number[right < wrong].sum())
    of_cell = cells[0] if targets.ndim == 1 else np.full(len(number), -1)
    if not _several(groups):
        return _Units(number, np.ones(len(number), np.int64), mine, theirs, of_cell, gained, lost)
    _, group, images = np.unique(groups, return_inverse=True, return_counts=True)
    alone = images[group] == 1
    single = np.bincount(place[alone], minlength=len(number))  # (cells,) images without a group
    several = np.unique(group[~alone], return_inverse=True)[1]
    ones = np.ones(len(several), np.int64)
    inside = sparse.csr_array((ones, (several, place[~alone])))  # (groups, cells) images
    inside.resize((int(several.max()) + 1, len(number)))
    kept = np.flatnonzero(single)
    low, high = (np.full(inside.shape[0], end) for end in (classes, -1))
    np.minimum.at(low, several, of_cell[place[~alone]])
    np.maximum.at(high, several, of_cell[place[~alone]])
    return _Units(
        np.concatenate([single[kept], np.ones(inside.shape[0], np.int64)]),
        np.concatenate([np.ones(len(kept), np.int64), np.asarray(inside.sum(axis=1)).ravel()]),
        sparse.csr_array(sparse.vstack([mine[kept], inside @ mine])),
        sparse.csr_array(sparse.vstack([theirs[kept], inside @ theirs])),
        np.concatenate([of_cell[kept], np.where(low == high, low, -1)]),
        gained,
        lost,
    )


def _cells(*labels: np.ndarray) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Distinct rows of equal-length label arrays: the arrays shortened to U rows, the row of each (N,), counts (U,)."""
    packed = [part[:, None] if part.ndim == 1 else np.packbits(part.astype(bool), axis=1) for part in labels]
    _, first, place, number = np.unique(
        np.concatenate(packed, axis=1), axis=0, return_index=True, return_inverse=True, return_counts=True
    )
    return [part[first] for part in labels], place.ravel(), number


def _outcomes(targets: np.ndarray, answers: np.ndarray, classes: int):
    """Sparse (U, 3 K + 1): columns true positives, false positives, false negatives by class, whole answer right."""
    from scipy import sparse

    truth, answer = one_hot(targets, classes), one_hot(answers, classes)
    hit = (truth == answer).all(axis=1, keepdims=True)
    parts = [truth & answer, ~truth & answer, truth & ~answer, hit]
    return sparse.csr_array(sparse.hstack([sparse.csr_array(part.astype(np.int64)) for part in parts], format="csr"))


def _as_counts(totals: np.ndarray, size: np.ndarray, classes: int) -> Counts:
    tp, fp, fn = (totals[..., k * classes : (k + 1) * classes] for k in range(3))
    return Counts(tp, fp, fn, totals[..., -1], size)


def _strata(stratum: np.ndarray, number: np.ndarray, few: int) -> np.ndarray:
    """(U,) stratum of each unit: its class, or -1 for several classes and all classes of fewer than `few` units."""
    support = np.bincount(stratum + 1, number)
    return np.where(support[stratum + 1] >= few, stratum, -1)


def _bootstrap(rng: np.random.Generator, number: np.ndarray, strata: np.ndarray | None, times: int) -> np.ndarray:
    """(times, U) counts of resampled images."""
    if strata is None:
        return rng.multinomial(number.sum(), number / number.sum(), size=times)
    drawn = np.empty((times, len(number)), np.int64)
    for stratum in np.unique(strata):
        here = strata == stratum
        total = number[here].sum()
        drawn[:, here] = rng.multinomial(total, number[here] / total, size=times)
    return drawn


def _quantiles(values: np.ndarray, confidence: float) -> tuple[float, float]:
    there = values[~np.isnan(values)]
    if not len(there):
        return float("nan"), float("nan")
    low, high = np.quantile(there, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
