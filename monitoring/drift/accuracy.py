"""How often is the model right? Estimated without labels, and measured where labels came. With 95 % intervals."""

import numpy as np

from tasks.scoring.intervals import wilson

Z = 1.96


def estimate(
    confidence: np.ndarray, reference_confidence: np.ndarray, correct: np.ndarray
) -> tuple[float, float, float]:
    """(accuracy, low, high) of a window with `confidence` (N,), from the reference's confidence and whether it was
    right, 1 or 0, (M,).

    The mean of two estimates: the reference's accuracy moved by the change of mean confidence (Guillory et al. 2021,
    "Predicting with confidence on unseen distributions"), and the share of rows above the confidence that as many
    reference rows exceed as are right (Garg et al. 2022, "Leveraging unlabeled data to predict out-of-distribution
    performance"). The interval spans both, each with its sampling error. Both trust the model's confidence: where it is
    confidently wrong they are too high.
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


def measured(right: int, rows: int) -> tuple[float, float, float]:
    """(accuracy, low, high) of `right` of `rows` (Wilson 1927, "Probable inference, the law of succession")."""
    return right / rows, *wilson(right, rows, Z)
