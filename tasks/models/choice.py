"""Chooses among classifiers by their answers to the calibration split; luck does not decide.

N calibration samples, K classes, D feature dimensions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tasks.dataset.shard_table import ShardTable
from tasks.models.head import Head
from tasks.scoring.groups import group_numbers
from tasks.scoring.metrics import balanced_accuracy, mean_average_precision

FOLDS = 5
RESAMPLES = 200
CLEAR = 1.64  # standard errors of a clear lead: luck gives it 5 % of the time; two images alone never do


@dataclass(frozen=True)
class Candidate:
    """A method's head, and what the choice among methods needs.

    logits (N, K) are cross-fitted: each row comes from a head whose setting was chosen without that sample.
    """

    head: Head
    logits: np.ndarray
    score: float


def candidate(heads: list[Head], x: ShardTable | np.ndarray, y: np.ndarray, seed: int) -> Candidate:
    """The best of a method's `heads` (one per setting) on calibration samples `x` (N, D), `y`.

    Its logits, and so its score, are cross-fitted: each fold gets those of the head that is best on the other folds.
    A setting that only fits one or two images of a rare class gains nothing from that.
    """
    logits = [head.logits(x) for head in heads]
    fold = folds(y, seed)
    mixed = np.empty_like(logits[0])
    for number in np.unique(fold):
        others = fold != number
        mixed[~others] = logits[_best(logits, y, others)][~others] if len(heads) > 1 else logits[0][~others]
    best = heads[_best(logits, y, np.ones(len(y), bool))]
    return Candidate(best, mixed, score(y, mixed))


def _best(logits: list[np.ndarray], y: np.ndarray, rows: np.ndarray) -> int:
    """Index of the logits with the best score on `rows`; the first one on a tie."""
    if not y[rows].size:
        return 0
    return int(np.argmax([score(y[rows], one[rows]) for one in logits]))


def folds(y: np.ndarray, seed: int) -> np.ndarray:
    """(N,) fold numbers: the samples of each class (multi-label: all samples) dealt evenly in random order."""
    rng = np.random.default_rng(seed)
    group = y if y.ndim == 1 else np.zeros(len(y), np.int64)
    order = np.concatenate([rng.permutation(np.flatnonzero(group == value)) for value in np.unique(group)])
    fold = np.empty(len(y), np.int64)
    fold[order] = np.arange(len(y)) % FOLDS
    return fold


def score(y: np.ndarray, logits: np.ndarray) -> float:
    """Balanced accuracy; for multi-label mean average precision, which needs no thresholds."""
    if y.ndim == 1:
        return balanced_accuracy(y, logits.argmax(axis=1), logits.shape[1])
    return mean_average_precision(y, logits)


def choose(found: dict[str, Candidate], y: np.ndarray, seed: int) -> str:
    """The first method, in `found`'s order of preference, that is within one standard error of the best.

    With few calibration images of a rare class, the best score is often luck; the paired error shows how much (the
    one-standard-error rule of Breiman et al. 1984). Deterministic, including ties.
    """
    best = max(found.values(), key=lambda one: one.score)  # the first one on a tie
    for name, one in found.items():
        if best.score - one.score <= standard_error(y, best.logits, one.logits, seed):
            return name
    raise AssertionError("the best candidate is within any error of itself")


def standard_error(y: np.ndarray, a: np.ndarray, b: np.ndarray, seed: int) -> float:
    """Standard error of the difference between the scores of logits `a` and `b` (N, K) on the same samples.

    Multi-class: from the samples' differences (right or wrong), with their variance pooled over classes, because a
    class with one image has none of its own. Multi-label: from paired bootstrap resamples.
    """
    if y.ndim == 1:
        difference = (a.argmax(axis=1) == y).astype(float) - (b.argmax(axis=1) == y)
        _, number, count = np.unique(y, return_inverse=True, return_counts=True)
        spread = difference - (np.bincount(number, difference) / count)[number]
        variance = np.square(spread).sum() / max(len(y) - len(count), 1)
        return float(np.sqrt(variance * (1 / count).sum()) / len(count))
    rng = np.random.default_rng(seed)
    draws = rng.integers(len(y), size=(RESAMPLES, len(y)))
    return float(np.std([score(y[rows], a[rows]) - score(y[rows], b[rows]) for rows in draws if y[rows].any()]))


@dataclass(frozen=True)
class Advantage:
    """How much better one candidate is than another on the same samples, and the standard error of that."""

    value: float
    error: float

    @property
    def clear(self) -> bool:
        return self.value > CLEAR * self.error


def advantage(a: Candidate, b: Candidate, y: np.ndarray, groups: Sequence[str | None], seed: int) -> Advantage:
    """Score of `a` minus that of `b` on `y`, from cross-fitted logits.

    groups: (N,) names; samples of one group are one observation, None is a group of its own. The error is the larger
    one of samples and groups: groups that answer alike make it larger, two groups alone say little about it.
    """
    error = standard_error(y, a.logits, b.logits, seed)  # 0 where each class has one image, so not alone
    return Advantage(a.score - b.score, max(error, _grouped_error(y, a.logits, b.logits, group_numbers(groups), seed)))


def _grouped_error(y: np.ndarray, a: np.ndarray, b: np.ndarray, group: np.ndarray, seed: int) -> float:
    """`standard_error` over groups (N,) in place of samples. Infinite for one group, which has no spread."""
    groups = group.max() + 1
    if groups < 2:
        return float("inf")
    if y.ndim == 1:
        difference = (a.argmax(axis=1) == y).astype(float) - (b.argmax(axis=1) == y)
        _, number, count = np.unique(y, return_inverse=True, return_counts=True)
        share = 1 / (count[number] * len(count))
        spread = np.bincount(group, share * (difference - (share * difference).sum()))
        return float(np.sqrt(np.square(spread).sum() * groups / (groups - 1)))
    rng = np.random.default_rng(seed)
    members = [np.flatnonzero(group == number) for number in range(groups)]
    drawn = [np.concatenate([members[g] for g in rng.integers(groups, size=groups)]) for _ in range(RESAMPLES)]
    return float(np.std([score(y[rows], a[rows]) - score(y[rows], b[rows]) for rows in drawn if y[rows].any()]))
