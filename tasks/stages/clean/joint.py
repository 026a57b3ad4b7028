"""The confident joint: how often a label is given to images that look like another class.

N samples, K classes. The numbers are those of cleanlab's `compute_confident_joint` and `estimate_joint` (Northcutt et
al. 2021), as a test shows, counted in bounded memory and without the seconds that importing cleanlab takes.
"""

from collections.abc import Iterator

import numpy as np

ROWS = 1 << 20  # probabilities looked at at once: 4 MB an array
SLACK = 1e-6  # by which a probability may miss its class's mean, as in cleanlab
UNREACHED = 2.0  # a probability that no image reaches: nothing looks like a class without labels


def confident_joint(y: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """(K, K) shares of all samples, rows given, columns true; rows sum to the given classes' shares.

    The joint of labels `y` (N,) and out-of-fold `probabilities` (N, K), in whole samples, as cleanlab rounds it.
    """
    given = np.bincount(y, minlength=probabilities.shape[1])
    counts = np.asfortranarray(calibrated(confident_counts(y, probabilities), given))
    counts = _whole(
        counts / counts.sum() * given.sum()
    )  # that, in this order of summing, decides ties as cleanlab does
    return counts / counts.sum()


def confident_counts(y: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """(K, K) samples that count as a class with confidence, by given label (rows); at least 1 on the diagonal.

    A sample counts as class j if the probability of j reaches the mean probability of j among samples labelled j. If
    several classes do, it counts as the likeliest class; if none does, it is not counted.
    """
    classes = probabilities.shape[1]
    given = np.bincount(y, minlength=classes)
    total = np.zeros(classes)
    for part in parts(probabilities):
        own = probabilities[part][np.arange(len(y[part])), y[part]]
        total += np.bincount(y[part], own, minlength=classes)
    mean = np.maximum(total / np.maximum(given, 1), 2 * SLACK)  # as cleanlab: all images would reach a mean of 0
    least = np.where(given > 0, mean - SLACK, UNREACHED)
    least = least.astype(probabilities.dtype)  # else each part is cast
    counts = np.zeros((classes, classes))
    for part in parts(probabilities):
        reached = probabilities[part] >= least
        number = np.count_nonzero(reached, axis=1)
        known, several = number > 0, number > 1
        guess = reached.argmax(axis=1)
        guess[several] = probabilities[part][several].argmax(axis=1)
        cell = y[part][known] * classes + guess[known]
        counts += np.bincount(cell, minlength=classes**2).reshape(classes, classes)
    np.fill_diagonal(counts, np.maximum(np.diag(counts), 1))
    return counts


def calibrated(counts: np.ndarray, given: np.ndarray) -> np.ndarray:
    """`counts` (K, K) with rows that sum to the samples of each given class, `given` (K,)."""
    return (counts.T / counts.sum(axis=1) * given).T


def parts(probabilities: np.ndarray) -> Iterator[slice]:
    """Slices of rows that hold at most ROWS probabilities each."""
    return spans(*probabilities.shape, ROWS)


def spans(samples: int, classes: int, most: int) -> Iterator[slice]:
    """Slices of `samples` that hold at most `most` probabilities each."""
    step = max(1, most // classes)
    for start in range(0, samples, step):
        yield slice(start, min(start + step, samples))


def _whole(counts: np.ndarray) -> np.ndarray:
    """`counts` (K, K) rounded, each row to its own rounded sum: what rounding lost goes to those it took most from."""
    whole = counts.round()
    for row, exact in zip(whole, counts, strict=True):
        short = int(round(exact.sum()) - row.sum())
        step = 1 if short > 0 else -1
        row[np.argsort(exact - row)[::-step][: abs(short)]] += step
    return whole
