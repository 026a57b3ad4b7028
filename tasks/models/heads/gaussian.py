"""GDA: each class is a Gaussian around its own mean, all with one covariance.

The classical discriminant analysis of Fisher and Rao. Rare classes borrow their spread from common ones, which is why
it is a strong head for few-shot classes (Wang et al. 2024, "A hard-to-beat baseline for training-free CLIP-based
adaptation"). All classes count as equally likely. N samples, K classes, D feature dimensions.
"""

from dataclasses import dataclass

import numpy as np

from tasks.dataset.shard_table import ShardTable
from tasks.models.head import ROWS, Head


@dataclass(frozen=True)
class Moments:
    """(K, D) mean of each class, (K,) samples, and the covariance (D, D) within classes, averaged over samples."""

    means: np.ndarray
    counts: np.ndarray
    covariance: np.ndarray


def moments(x: ShardTable | np.ndarray, y: np.ndarray, classes: int) -> Moments:
    """The moments of features `x` (N, D) with classes `y` (N,), in one pass. A class without samples has mean 0."""
    dimensions = x.shape[1]
    counts = np.bincount(y, minlength=classes)
    sums, square = np.zeros((classes, dimensions)), np.zeros((dimensions, dimensions))
    for start in range(0, len(x), ROWS):
        rows = np.asarray(x[start : start + ROWS], np.float32)
        np.add.at(sums, y[start : start + ROWS], rows)
        square += rows.T @ rows
    means = sums / np.maximum(counts, 1)[:, None]
    covariance = (square - (means * counts[:, None]).T @ means) / max(len(x), 1)
    return Moments(means, counts, covariance)


def gaussian(found: Moments, shrinkage: float) -> Head:
    """The head of `found` with its covariance moved by `shrinkage` (0 to 1) towards a sphere."""
    from scipy.linalg import cho_factor, cho_solve

    size = len(found.covariance)
    sphere = max(np.trace(found.covariance) / size, 1e-12)
    covariance = (1 - shrinkage) * found.covariance + (shrinkage * sphere + 1e-9) * np.eye(size)
    weight = cho_solve(cho_factor(covariance.astype(np.float32)), found.means.T.astype(np.float32)).T
    bias = -0.5 * np.einsum("kd,kd->k", weight, found.means)
    bias[found.counts == 0] = bias.min() - 1e3  # a class that was never seen is never answered
    return Head(weight.astype(np.float32), bias.astype(np.float32), shrinkage)
