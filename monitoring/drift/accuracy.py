"""How often the model is right: estimated without labels, or measured. With 95 % intervals."""

import numpy as np

from tasks.scoring.intervals import wilson

Z = 1.96


def estimate_accuracy(
    confidence: np.ndarray, reference_confidence: np.ndarray, correct: np.ndarray
) -> tuple[float, float, float]:
    """(accuracy, low, high) of a window, estimated from its confidence (N,) without labels.

    reference_confidence, correct: (M,) of the reference; correct is 1 for a right answer, 0 for a wrong one.

    The value is the mean of two estimates. The first is the reference's accuracy, moved by the change of mean
    confidence (Guillory et al. 2021, "Predicting with confidence on unseen distributions"). The second is the share of
    window rows above a confidence bound; the bound is chosen so that as many reference rows exceed it as are right
    (Garg et al. 2022, "Leveraging unlabeled data to predict out-of-distribution performance"). The interval covers
    both estimates and their sampling errors. Both trust the model's confidence: they are too high where the model is
    confidently wrong.
    """
    right = correct.mean()
    moved = right + confidence.mean() - reference_confidence.mean()
    ordered = np.sort(reference_confidence)
    wrong = min(round((1 - right) * len(ordered)), len(ordered) - 1)
    above = (confidence > ordered[wrong - 1]).mean() if wrong else 1.0
    error = np.sqrt((correct - reference_confidence).var() / len(correct) + confidence.var() / len(confidence))
    share_error = np.sqrt(right * (1 - right) / len(correct) + above * (1 - above) / len(confidence))
    low, high = min(moved - Z * error, above - Z * share_error), max(moved + Z * error, above + Z * share_error)
    value = float(np.clip((moved + above) / 2, 0, 1))
    return value, min(value, float(np.clip(low, 0, 1))), max(value, float(np.clip(high, 0, 1)))


def measure_accuracy(right: int, rows: int) -> tuple[float, float, float]:
    """(accuracy, low, high) of `right` out of `rows`.

    Wilson 1927, "Probable inference, the law of succession".
    """
    return right / rows, *wilson(right, rows, Z)
