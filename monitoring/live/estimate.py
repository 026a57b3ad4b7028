"""Estimate how often the model was right, with an interval that holds for few labels.

Prediction-powered inference (Angelopoulos et al. 2023; power tuning of PPI++, Angelopoulos, Duchi & Zrnic 2023): the
mean confidence of all answers, moved by how much labelled answers were righter or wronger than their confidence. It is
valid for every model; confidences that tell right from wrong make the interval narrower.

Answers are divided into strata of confidence (Fisch et al. 2024, "Stratified prediction-powered inference"): people
leave unclear images unlabelled more often, and this must not make the model look better. The interval is that of
Clopper & Pearson for as many labels as the estimate's variance is worth (Korn & Graubard 1998). It also holds for few
labels and for accuracies near 1, where normal intervals do not; with many errors it approaches the mid-P interval.

Only labels with a known chance of being asked for are used: answers that somebody picked say nothing about the others.
If nearly every answer has a label, the answers without one bound the accuracy.

N answers, n labels with a known chance, H strata.
"""

import math
from typing import NamedTuple

import numpy as np

from tasks.common.checks import Frozen

LEVEL = 0.05  # 1 - confidence of the intervals
PER_STRATUM = 15  # labels in a stratum, at least
STRATA = 6  # at most
PRIOR = 4  # labels for which the variance over all strata counts in each
FEW = 5  # right or wrong answers: with fewer, the estimated gain of confidences counts for less than half
MOSTLY = 0.9  # share of answers with a label from which the others only bound the accuracy


class LiveAccuracy(Frozen):
    """The share of right answers, with a 95 % interval."""

    answers: int  # N
    labels: int  # answers with a label
    used: int  # n
    worth: float  # labels picked at random which would give this interval without confidences
    value: float
    low: float
    high: float


class PredictionPowered(NamedTuple):
    """A mean, its variance, and the weight of the predictions in it."""

    value: float
    variance: float
    power: float


def live_accuracy(
    confidence: np.ndarray, labelled: np.ndarray, right: np.ndarray, chance: np.ndarray, answers: int | None = None
) -> LiveAccuracy | None:
    """The accuracy of the answers; None if no label can be used.

    confidence: (N,) of all answers, or of a random sample: the model's own chance of being right. labelled: (L,) the
    same of the answers with a label. right: (L,) 1 for a right answer, 0 for a wrong one. chance: (L,) the probability
    with which the answer was picked for labelling, NaN where it is unknown. answers: N, if `confidence` is a sample.
    """
    total = max(answers or len(confidence), len(right))
    bounds = _bounds(right, total)
    used = chance > 0
    n = int(used.sum())
    if not n or not len(confidence):
        return bounds
    value, variance = stratified(confidence, labelled[used], right[used], 1 / chance[used], total)
    wrong = min(right[used].sum(), n - right[used].sum())
    share = _shrunk(value, n)
    worth = share * (1 - share) / variance
    if worth > n:
        worth = n + (worth - n) * wrong / (wrong + FEW)
    low, high = interval(value * worth, worth, wrong / (wrong + FEW) / 2)
    found = LiveAccuracy(answers=total, labels=len(right), used=n, worth=worth, value=value, low=low, high=high)
    return bounds if bounds and bounds.high - bounds.low < high - low else found


def stratified(
    confidence: np.ndarray, labelled: np.ndarray, right: np.ndarray, weights: np.ndarray, answers: int
) -> tuple[float, float]:
    """(mean of right over N answers, its variance), prediction-powered in each stratum of confidence.

    labelled, right, weights: (n,); weights: 1 / the chance of being picked.
    """
    n = len(right)
    edges = strata(labelled)
    of_all, of_labelled = np.searchsorted(edges, confidence), np.searchsorted(edges, labelled)
    count, size = len(edges) + 1, np.bincount(of_labelled, minlength=len(edges) + 1)
    share = np.bincount(of_all, minlength=count) / len(confidence)
    total = np.bincount(of_labelled, weights, count)
    means = [np.bincount(of_labelled, weights * values, count) / total for values in (labelled, right)]
    centred = np.bincount(of_all, confidence, count) / np.maximum(np.bincount(of_all, minlength=count), 1)
    scaled = weights / weights.mean()
    root = np.sqrt(scaled)
    power = _power(
        root * (labelled - means[0][of_labelled]), root * (right - means[1][of_labelled]), confidence - centred[of_all]
    )
    power *= n / (n + 2 * FEW)  # estimated from few labels, it would promise too much
    value = float(np.clip((share * (power * centred + means[1] - power * means[0])).sum(), 0, 1))

    # one right and one wrong answer more, as in Agresti & Coull 1998: n right answers do not prove that all are right
    probable = _shrunk(value, n)
    added = ((1 - probable) ** 2 + probable**2) * size / n
    rest = right - means[1][of_labelled] - power * (labelled - means[0][of_labelled])
    squares = np.bincount(of_labelled, scaled * rest**2, count) + added
    pooled = squares.sum() / max(n + 2 - count, 1)
    spread = (squares + PRIOR * pooled) / (size + 2 * size / n - 1 + PRIOR) if count > 1 else np.array([pooled])
    uneven = np.bincount(of_labelled, weights**2, count) / total**2
    sampling = (share**2 * spread * uneven).sum() * max(1 - n / answers, 0)
    return value, float(sampling + probable * (1 - probable) / answers)


def strata(labelled: np.ndarray) -> np.ndarray:
    """(H - 1,) bounds of confidence; each stratum has about the same number of the (n,) labels."""
    count = int(np.clip(len(labelled) // PER_STRATUM, 1, STRATA))
    # bounds are confidences of labels, below the highest: so no stratum is without a label
    edges = np.unique(np.quantile(labelled, np.arange(1, count) / count, method="inverted_cdf"))
    return edges[edges < labelled.max()]


def stands_for(confidence: np.ndarray, labelled: np.ndarray, weights: np.ndarray, answers: int) -> np.ndarray:
    """(n,) how many of the N answers each label stands for; together N."""
    edges = strata(labelled)
    of_labelled = np.searchsorted(edges, labelled)
    share = np.bincount(np.searchsorted(edges, confidence), minlength=len(edges) + 1) / len(confidence)
    return answers * (share / np.bincount(of_labelled, weights, len(edges) + 1))[of_labelled] * weights


def prediction_powered(
    predicted: np.ndarray, labelled: np.ndarray, labels: np.ndarray, weights: np.ndarray, power: float | None = None
) -> PredictionPowered:
    """The mean of all labels from (N,) predictions and (n,) labels, in one stratum.

    labelled: (n,) predictions for the labelled samples. weights: (n,) 1 / the chance of being picked. power: weight of
    the predictions; None: the one with the least variance.
    """
    weights = weights / weights.mean()
    if power is None:
        middle = predicted.mean() + (weights * (labels - labelled)).mean()
        power = _power(weights * (labelled - middle), weights * (labels - middle), predicted - middle)
    rest = weights * (labels - power * labelled)
    variance = power**2 * predicted.var() / len(predicted) + rest.var() / len(labels)
    return PredictionPowered(float(power * predicted.mean() + rest.mean()), float(variance), power)


def _power(labelled: np.ndarray, labels: np.ndarray, predicted: np.ndarray) -> float:
    """The weight of the predictions, 0 to 1, that gives the least variance (PPI++)."""
    together = ((labelled - labelled.mean()) * (labels - labels.mean())).mean()
    spread = np.concatenate([labelled, predicted]).var(ddof=1)
    if spread <= 1e-12:
        return 0.0
    return float(np.clip(together / ((1 + len(labels) / len(predicted)) * spread), 0, 1))


def interval(count: float, n: float, narrower: float = 0.0) -> tuple[float, float]:
    """(low, high) of the proportion `count` / `n`; both may be fractions (Clopper & Pearson 1934).

    narrower: 0 for an interval that always holds; 0.5 for the mid-P-like one of Jeffreys, which holds on average.
    """
    from scipy.special import betaincinv  # half a second to import

    count = min(max(count, 0.0), n)
    low = betaincinv(count + narrower, n - count + 1 - narrower, LEVEL / 2) if count > 1e-9 else 0.0
    high = betaincinv(count + 1 - narrower, n - count + narrower, 1 - LEVEL / 2) if n - count > 1e-9 else 1.0
    return float(low), float(high)


def more_labels(found: LiveAccuracy, half: float) -> int | None:
    """How many more labels make the interval at most +- `half` wide; 0 if it is; None if all answers are too few."""
    each, left = found.worth / max(found.used, 1), found.answers - found.labels

    def wide(more: int) -> bool:
        worth = found.worth + more * each
        low, high = interval(found.value * worth, worth, 0.5)
        return high - low > 2 * half

    if found.high - found.low <= 2 * half:
        return 0
    few, enough = 0, max(left, 0)
    if not each or not enough or wide(enough):
        return None
    while enough - few > 1:
        middle = (few + enough) // 2
        few, enough = (middle, enough) if wide(middle) else (few, middle)
    return enough


def sentence(found: LiveAccuracy, half: float = 0.03) -> str:
    """`found` for people: "67.1 to 71.3 % right; 64 more labels make it +-3 points"."""
    low, high = (math.floor(1000 * found.low) / 10, math.ceil(1000 * found.high) / 10)
    said = f"{low:.1f} to {high:.1f} % right"
    more = more_labels(found, half)
    if more is None:
        return f"{said}, by {found.used} labels"
    return f"{said}; {more} more labels make it +-{100 * half:g} points" if more else said


def _bounds(right: np.ndarray, answers: int) -> LiveAccuracy | None:
    """The accuracy if nearly all answers have a label: the others may be right or wrong."""
    n = len(right)
    if not answers or n < MOSTLY * answers:
        return None
    good = float(right.sum())
    low, high = interval(good, answers)[0], interval(good + answers - n, answers)[1]
    return LiveAccuracy(answers=answers, labels=n, used=n, worth=n, value=good / n, low=low, high=high)


def _shrunk(value: float, n: int) -> float:
    return (value * n + 1) / (n + 2)
