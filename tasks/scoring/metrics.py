"""Metrics of a classifier, in plain NumPy, from targets, predictions and calibrated probabilities.

N samples, K classes, M events, B bins. `targets` come from `tasks.scoring.targets.encode`: (N,) int class indices for
multi-class (without -1: leave out unlabelled rows), (N, K) of 0 and 1 for multi-label. `predicted` has the same shape:
(N,) class indices or (N, K) bool. `probabilities` is (N, K). Shares are 0..1, never percent.

The recall of a class without samples is undefined: its per-class figures are NaN, and means leave it out.
"""

from typing import Literal, NamedTuple

import numpy as np

Metric = Literal["balanced_accuracy", "accuracy", "macro_f1"]


class Counts(NamedTuple):
    """Outcomes of N decisions, per class. Every array may have leading axes, for example resamples."""

    tp: np.ndarray  # (..., K)
    fp: np.ndarray  # (..., K)
    fn: np.ndarray  # (..., K)
    hits: np.ndarray  # (...) samples whose predicted labels are all right
    total: np.ndarray  # (...) samples


def counts(targets: np.ndarray, predicted: np.ndarray, classes: int) -> Counts:
    """Outcomes of `predicted` against `targets`. Raises ValueError for no samples or unequal shapes."""
    if targets.shape != predicted.shape or not len(targets):
        raise ValueError(f"targets are {targets.shape}, predictions {predicted.shape}: expected equal, N > 0")
    truth, answer = one_hot(targets, classes), one_hot(predicted, classes)
    return Counts(
        tp=(truth & answer).sum(axis=0),
        fp=(~truth & answer).sum(axis=0),
        fn=(truth & ~answer).sum(axis=0),
        hits=(truth == answer).all(axis=1).sum(),
        total=np.asarray(len(targets)),
    )


def one_hot(labels: np.ndarray, classes: int) -> np.ndarray:
    """(N, K) bool of (N,) indices or of an (N, K) array of 0 and 1."""
    if labels.ndim == 2:
        return labels.astype(bool)
    return labels[:, None] == np.arange(classes)


def metric_of(metric: Metric, found: Counts, task: str) -> np.ndarray:
    """Compute `metric` from outcomes, over the last axis: (..., K) counts give (...).

    Classes without samples are left out. balanced_accuracy: mean recall; for multi-label the mean over classes of
    (recall + specificity) / 2, because a model that predicts every label for every sample has recall 1. accuracy:
    share of samples whose predicted labels are all right. macro_f1: mean over classes of 2 tp / (2 tp + fp + fn).
    """
    if metric == "accuracy":
        return found.hits / found.total
    support = found.tp + found.fn
    if metric == "macro_f1":
        return _mean(_ratio(2 * found.tp, 2 * found.tp + found.fp + found.fn), support > 0)
    recall = _ratio(found.tp, support)
    if task == "multiclass":
        return _mean(recall, support > 0)
    negatives = np.asarray(found.total)[..., None] - support
    specificity = _ratio(negatives - found.fp, negatives)
    return _mean((recall + specificity) / 2, (support > 0) & (negatives > 0))


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.zeros(np.broadcast_shapes(np.shape(part), np.shape(whole))), where=whole > 0)


def _mean(values: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Mean over the last axis of the `values` that are `present`; NaN where none is."""
    number = present.sum(axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(present, values, 0.0).sum(axis=-1) / number


def task_of_targets(targets: np.ndarray) -> str:
    """ "multiclass" or "multilabel", from the shape of `targets`."""
    return "multiclass" if targets.ndim == 1 else "multilabel"


def accuracy(targets: np.ndarray, predicted: np.ndarray, classes: int) -> float:
    """Share of samples whose predicted labels are all right (multi-label: subset accuracy)."""
    return float(metric_of("accuracy", counts(targets, predicted, classes), task_of_targets(targets)))


def balanced_accuracy(targets: np.ndarray, predicted: np.ndarray, classes: int) -> float:
    """See `metric_of`."""
    return float(metric_of("balanced_accuracy", counts(targets, predicted, classes), task_of_targets(targets)))


def macro_f1(targets: np.ndarray, predicted: np.ndarray, classes: int) -> float:
    """See `metric_of`."""
    return float(metric_of("macro_f1", counts(targets, predicted, classes), task_of_targets(targets)))


def micro_f1(targets: np.ndarray, predicted: np.ndarray, classes: int) -> float:
    """F1 over all (sample, class) pairs; for multi-class this equals accuracy."""
    found = counts(targets, predicted, classes)
    tp = found.tp.sum()
    return float(_ratio(2 * tp, 2 * tp + found.fp.sum() + found.fn.sum()))


def per_class(targets: np.ndarray, predicted: np.ndarray, classes: int) -> dict[str, np.ndarray]:
    """(K,) arrays: support, predicted (how often), recall, precision, f1; NaN where the denominator is 0."""
    found = counts(targets, predicted, classes)
    support, answered = found.tp + found.fn, found.tp + found.fp
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "support": support,
            "predicted": answered,
            "recall": found.tp / support,
            "precision": found.tp / answered,
            "f1": np.where(support > 0, 2 * found.tp / (support + answered), np.nan),
        }


def confusion(targets: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Confusion matrix, (K, K) int64: rows are targets, columns predictions. Multi-class only."""
    return np.bincount(targets * classes + predicted, minlength=classes * classes).reshape(classes, classes)


# --- ranking ---------------------------------------------------------------------------------------------------


def precision_recall(truth: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(precision, recall, threshold) of one class at each distinct score, highest score first.

    truth: (N,) bool; scores: (N,). Raises ValueError if no sample is positive, because recall is undefined then.
    """
    truth = np.asarray(truth, bool)
    if not truth.any():
        raise ValueError(f"precision_recall: none of {len(truth)} samples is positive, expected at least one")
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    last = np.append(ranked[1:] != ranked[:-1], True)  # equal scores share one threshold
    hits = np.cumsum(truth[order])[last]
    return hits / (np.flatnonzero(last) + 1), hits / truth.sum(), ranked[last]


def average_precision(targets: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """(K,) average precision of each class against the rest; NaN for a class without samples."""
    truth = one_hot(targets, probabilities.shape[1])
    out = np.full(probabilities.shape[1], np.nan)
    for k in np.flatnonzero(truth.any(axis=0)):
        precision, recall, _ = precision_recall(truth[:, k], probabilities[:, k])
        out[k] = np.sum(np.diff(recall, prepend=0.0) * precision)
    return out


def mean_average_precision(targets: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean of `average_precision` over the classes that have samples."""
    return float(np.nanmean(average_precision(targets, probabilities)))


# --- calibration -----------------------------------------------------------------------------------------------


class Bins(NamedTuple):
    """Non-empty bins of events, by increasing confidence."""

    count: np.ndarray  # (B,)
    confidence: np.ndarray  # (B,) mean predicted probability
    accuracy: np.ndarray  # (B,) share of events that came true


def events(probabilities: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The events that calibration is measured on: (confidence (M,) float64, happened (M,) bool).

    Multi-class: the probability of the predicted class, and whether it is right; M = N. Multi-label: probability and
    label of every (sample, class) pair; M = N K.
    """
    if targets.ndim == 2:
        return probabilities.astype(np.float64).ravel(), targets.astype(bool).ravel()
    return probabilities.max(axis=1).astype(np.float64), probabilities.argmax(axis=1) == targets


def reliability(
    probabilities: np.ndarray, targets: np.ndarray, bins: int = 15, equal: Literal["width", "mass"] = "mass"
) -> Bins:
    """Events grouped by confidence, in bins of equal width on [0, 1] or of equal numbers of events."""
    confidence, happened = events(probabilities, targets)
    if not len(confidence):
        raise ValueError("reliability: no samples, expected at least one")
    if equal == "width":
        index = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)  # (low, high], as in Guo et al.
    else:
        index = np.empty(len(confidence), int)
        rank = np.argsort(confidence, kind="stable")
        index[rank] = np.arange(len(confidence)) * bins // len(confidence)
    number = np.bincount(index, minlength=bins)
    filled = number > 0
    sums = np.bincount(index, confidence, bins)[filled], np.bincount(index, happened, bins)[filled]
    return Bins(number[filled], sums[0] / number[filled], sums[1] / number[filled])


def ece(probabilities: np.ndarray, targets: np.ndarray, bins: int = 15) -> float:
    """Expected calibration error, equal-width bins (Guo et al. 2017, "On calibration of modern neural networks")."""
    return _mean_gap(reliability(probabilities, targets, bins, "width"))


def adaptive_ece(probabilities: np.ndarray, targets: np.ndarray, bins: int = 15) -> float:
    """Expected calibration error, bins of equal mass (Nixon et al. 2019, "Measuring calibration in deep learning")."""
    return _mean_gap(reliability(probabilities, targets, bins, "mass"))


def _mean_gap(found: Bins) -> float:
    return float(np.average(np.abs(found.confidence - found.accuracy), weights=found.count))


def debiased_ece(probabilities: np.ndarray, targets: np.ndarray, bins: int = 15) -> float:
    """Root mean squared calibration error in equal-mass bins, without the bias of the plug-in estimate.

    From Kumar, Liang & Ma 2019, "Verified uncertainty calibration"; also the "debiased ECE" of Roelofs et al. 2022.
    The plain ECE of n events in B bins is about sqrt(B / n) too high, even for a perfectly calibrated model. This
    estimate subtracts from each bin's squared gap the variance of the bin's accuracy, a (1 - a) / (n_b - 1). A negative
    sum counts as 0. In expectation it is never smaller than the mean absolute gap. Bins of one event are left out.
    """
    found = reliability(probabilities, targets, bins, "mass")
    usable = found.count > 1
    if not usable.any():
        raise ValueError(f"debiased_ece: {found.count.sum()} events in {bins} bins, expected two events in a bin")
    number, sure, right = (part[usable] for part in found)
    squared = (sure - right) ** 2 - right * (1 - right) / (number - 1)
    return float(np.sqrt(max(np.average(squared, weights=number), 0.0)))


def brier(probabilities: np.ndarray, targets: np.ndarray) -> float:
    """Brier score: mean squared error of the probabilities (Brier 1950).

    Summed over classes for multi-class (0..2), averaged over labels for multi-label (0..1).
    """
    squared = (probabilities.astype(np.float64) - one_hot(targets, probabilities.shape[1])) ** 2
    return float(squared.sum(axis=1).mean() if targets.ndim == 1 else squared.mean())


def log_loss(probabilities: np.ndarray, targets: np.ndarray) -> float:
    """Mean negative log-likelihood in nats (multi-label: mean over labels), of clipped probabilities."""
    clipped = np.clip(probabilities.astype(np.float64), 1e-12, 1 - 1e-12)
    if targets.ndim == 1:
        return float(-np.log(clipped[np.arange(len(targets)), targets]).mean())
    return float(-np.where(targets.astype(bool), np.log(clipped), np.log1p(-clipped)).mean())
