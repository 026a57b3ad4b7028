"""Estimate which mix of true classes would explain the window's answers.

Black-box shift estimation (Lipton et al. 2018, "Detecting and correcting for label shift with black box predictors"),
with probabilities instead of hard answers and shrunk towards "no shift" (Azizzadenesheli et al. 2019, "Regularized
learning for domain adaptation under label shifts"). It assumes that images of one class still look the same; after a
change of camera its estimate means little. N rows of the window, M of the reference, K classes.
"""

import numpy as np

SHRINK = 0.02  # of the mean diagonal of the confusion matrix, squared
DRAWS = 100  # bootstrap samples for the interval
MOST = 100  # classes; with more, the estimate is slow and the reference has too few rows of each


def estimate_priors(window: np.ndarray, reference: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(K,) estimated shares of the true classes; a class without reference rows gets 0.

    window: (N, K) and reference: (M, K) probabilities; labels: (M, K) bool, one True per row.
    """
    from scipy.optimize import nnls

    known = labels.mean(axis=0)
    confusion = reference.T @ labels / len(reference)  # [i, j]: probability given to i if j is true
    scale = np.sqrt(SHRINK) * np.trace(confusion) / len(known)
    left = np.vstack([confusion, scale * np.eye(len(known))])
    right = np.concatenate([window.mean(axis=0), np.full(len(known), scale)])
    found = nnls(left, right)[0] * known
    return found / found.sum()


def estimate_shift(
    window: np.ndarray, reference: np.ndarray, labels: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, float, float, float]:
    """(new shares (K,), old shares (K,), total variation distance, low and high of its interval).

    The interval covers 95 %, by bootstrap of both window and reference.
    """
    new, old = estimate_priors(window, reference, labels), labels.mean(axis=0)
    distance = float(np.abs(new - old).sum() / 2)
    drawn = []
    for _ in range(DRAWS):
        rows, others = rng.integers(0, len(window), len(window)), rng.integers(0, len(reference), len(reference))
        priors = estimate_priors(window[rows], reference[others], labels[others])
        drawn.append(np.abs(priors - labels[others].mean(0)).sum() / 2)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return new, old, distance, min(distance, float(low)), max(distance, float(high))
