"""Chooses among classifiers by their answers to the calibration split; luck does not decide.

The choice is nested: the setting of each method is chosen without the images that judge the method, and the method
without the images whose logits the calibration is fitted on. N calibration samples, K classes, D feature dimensions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tasks.dataset.shard_table import ShardTable
from tasks.inference.temperature import fit_temperature
from tasks.models.head import Head
from tasks.scoring.groups import group_numbers
from tasks.scoring.metrics import balanced_accuracy, mean_average_precision

FOLDS = 5
RESAMPLES = 200
CLEAR = 1.64  # standard errors of a clear lead: luck gives it 5 % of the time; two images alone never do
REFERENCE = "stage1"  # the method whose common classes a bound protects


@dataclass(frozen=True)
class Candidate:
    """A method's head, and what the choice among methods needs.

    logits (N, K) are cross-fitted: each row comes from a head whose setting was chosen without that sample.
    """

    head: Head
    logits: np.ndarray
    score: float


@dataclass(frozen=True)
class Protected:
    """Classes (K,) bool whose mean recall may fall by at most `loss` (0 to 1) below that of stage 1's classifier."""

    classes: np.ndarray
    loss: float


@dataclass(frozen=True)
class Chosen:
    """The outcome of a nested choice.

    found: every method's candidate; logits (N, K): each row from the method and setting chosen without its fold, in
    the scale of the final head; score: of those logits, so what the whole procedure is worth.
    """

    found: dict[str, Candidate]
    method: str
    logits: np.ndarray
    score: float


def nested(
    heads: Mapping[str, Sequence[Head]],
    x: ShardTable | np.ndarray,
    y: np.ndarray,
    seed: int,
    *,
    groups: Sequence[str | None] | None = None,
    protected: Protected | None = None,
) -> Chosen:
    """Choose among `heads` (method -> one head per setting, in order of preference) on samples `x` (N, D), `y`.

    groups: (N,) names, of which each stays in one fold.
    """
    logits = {name: [head.logits(x) for head in some] for name, some in heads.items()}
    fold = folds(y, seed, groups)
    everything = np.ones(len(y), bool)
    places, found, method = _pick(logits, y, fold, everything, seed, protected)
    mixed = logits[method][places[method]].copy()
    for number in np.unique(fold):
        rest = fold != number
        if not rest.any():
            continue
        there, _, name = _pick(logits, y, fold, rest, seed, protected)
        if (name, there[name]) != (method, places[method]):
            other = logits[name][there[name]]
            scale = fit_temperature(logits[method][places[method]][rest], y[rest]) / fit_temperature(
                other[rest], y[rest]
            )
            mixed[~rest] = other[~rest] * scale
    candidates = {name: Candidate(heads[name][places[name]], part, score(y, part)) for name, part in found.items()}
    return Chosen(candidates, method, mixed, score(y, mixed))


def _pick(
    logits: Mapping[str, Sequence[np.ndarray]],
    y: np.ndarray,
    fold: np.ndarray,
    rows: np.ndarray,
    seed: int,
    protected: Protected | None,
) -> tuple[dict[str, int], dict[str, np.ndarray], str]:
    """(each method's setting, its cross-fitted logits (N, K), the method) by the samples `rows` (N,) alone."""
    reference = logits[REFERENCE][0] if protected is not None and REFERENCE in logits else None
    places, mixed, judged = {}, {}, {}
    for name, some in logits.items():
        places[name] = _best(some, y, rows, protected, reference)
        mixed[name] = some[places[name]]
        if len(some) > 1:
            mixed[name] = mixed[name].copy()
            for number in np.unique(fold[rows]):
                here = rows & (fold == number)
                mixed[name][here] = some[_best(some, y, rows & ~here, protected, reference)][here]
        if reference is None or _loss(mixed[name], y, rows, protected, reference) <= protected.loss:
            judged[name] = Candidate(None, mixed[name][rows], score(y[rows], mixed[name][rows]))
    return places, mixed, choose(judged, y[rows], seed)


def _best(
    logits: Sequence[np.ndarray],
    y: np.ndarray,
    rows: np.ndarray,
    protected: Protected | None = None,
    reference: np.ndarray | None = None,
) -> int:
    """Index of the logits with the best score on `rows`; the first one on a tie.

    Of those that cost the protected classes too much, the one that costs least comes after all others.
    """
    if len(logits) == 1 or not y[rows].size:
        return 0
    values = [score(y[rows], one[rows]) for one in logits]
    if reference is not None:
        losses = [_loss(one, y, rows, protected, reference) for one in logits]
        values = [value if lost <= protected.loss else -lost for value, lost in zip(values, losses, strict=True)]
    return int(np.argmax(values))


def _loss(logits: np.ndarray, y: np.ndarray, rows: np.ndarray, protected: Protected, reference: np.ndarray) -> float:
    """How far `logits` lie below `reference` in the mean recall of the protected classes, on `rows`."""
    rows = rows & protected.classes[y]
    _, number, count = np.unique(y[rows], return_inverse=True, return_counts=True)
    if not len(count):
        return 0.0
    fewer = (reference[rows].argmax(axis=1) == y[rows]).astype(float) - (logits[rows].argmax(axis=1) == y[rows])
    return float((np.bincount(number, fewer) / count).mean())


def folds(y: np.ndarray, seed: int, groups: Sequence[str | None] | None = None) -> np.ndarray:
    """(N,) fold numbers: the samples of each class (multi-label: all samples) dealt evenly in random order.

    groups: (N,) names; the samples of a group follow its first one, None is a group of its own.
    """
    rng = np.random.default_rng(seed)
    number = np.arange(len(y)) if groups is None else group_numbers(groups)
    first = np.unique(number, return_index=True)[1]
    kind = y[first] if y.ndim == 1 else np.zeros(len(first), np.int64)
    order = np.concatenate([rng.permutation(np.flatnonzero(kind == value)) for value in np.unique(kind)])
    fold = np.empty(len(first), np.int64)
    fold[order] = np.arange(len(first)) % FOLDS
    return fold[number]


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
