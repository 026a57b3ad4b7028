"""`mahalanobis`, `rmds`, `rmds++`: distance to the nearest class, in units of spread within classes.

- `mahalanobis` (Lee et al. 2018, "A simple unified framework for detecting out-of-distribution samples and adversarial
  attacks"): each class is a Gaussian around its mean, all with one covariance.
- `rmds` (Ren et al. 2021, "A simple fix to Mahalanobis distance for improving near-OOD detection"): minus the distance
  to one Gaussian of all images. What is far from everything in every direction cancels out.
- `rmds++` (Mueller & Hein 2025, "Mahalanobis++: improving OOD detection via feature normalization"): the same on
  features of unit length.

The covariance of all images is that within classes plus that of the class means. So after whitening, the two distances
differ only along the directions in which the means differ: `rmds` keeps these K - 1 directions at most.
The covariance is shrunk as by Ledoit & Wolf 2004, "A well-conditioned estimator for large-dimensional covariance
matrices", so fewer images than dimensions, duplicate and constant dimensions are safe.
M training images, N images, D feature dimensions, K classes, R directions kept.
"""

import numpy as np

from tasks.inference.ood.features import along, normalised, principal_directions, stored_axes

FLOOR = 1e-6  # of the mean variance: the least variance of a direction
MOST_AXES = 512  # directions of rmds: with 1,000 classes, the strongest


def fit(
    features: np.ndarray,
    strata: tuple[np.ndarray, np.ndarray],
    *,
    unit: bool,
    relative: bool,
    shrinkage: float | None = None,
) -> dict[str, np.ndarray]:
    """Tensors of the score. features: (M, D); strata: (rows, classes), class classes[i] has the image rows[i].

    unit: scale features to unit length; relative: subtract the distance to all images; shrinkage: 0 is the plain
    covariance, 1 a sphere, None chooses.
    """
    x = normalised(features) if unit else np.asarray(features, np.float32)
    rows, classes = strata[0], np.unique(strata[1], return_inverse=True)[1]
    order = np.argsort(classes, kind="stable")
    rows, classes = rows[order], classes[order]
    centre = x[rows].mean(axis=0, dtype=np.float64)
    basis = None  # directions (D, R) outside of which the training images do not vary
    reduced = x[rows] - centre
    if len(rows) <= x.shape[1]:
        basis = principal_directions(reduced, len(rows))
        reduced = reduced @ basis
    counts = np.bincount(classes).astype(np.float64)
    means = np.add.reduceat(reduced, np.searchsorted(classes, np.arange(len(counts))), axis=0) / counts[:, None]
    variances, directions, rest = _principal(reduced - means[classes], x.shape[1], shrinkage)
    whitening, between = directions / np.sqrt(variances), None
    if relative:
        centres = means @ whitening
        between, turn = np.linalg.eigh((centres * (counts / counts.sum())[:, None]).T @ centres)
        strongest = np.argsort(-between)[: max(1, min(len(counts) - 1, MOST_AXES, len(between)))]
        whitening, between = whitening @ turn[:, strongest], np.maximum(between[strongest], 0)
    axes = whitening if basis is None else basis @ whitening
    tensors = {"centre": centre.astype(np.float32), **stored_axes(axes)}
    offsets = means if basis is None else means @ basis.T
    tensors["centres"] = (along(offsets, tensors) * tensors["lengths"]).astype(np.float32)
    if between is not None:
        tensors["between"] = (between / (1 + between)).astype(np.float32)
    elif basis is not None:
        tensors["rest"] = np.array([1 / rest], np.float32)
    return tensors


def score(features: np.ndarray, tensors: dict[str, np.ndarray], *, unit: bool) -> np.ndarray:
    """(N,) squared distance of `features` (N, D) to the nearest class, relative if the tensors are; NaN stays NaN."""
    x = normalised(features) if unit else np.asarray(features, np.float32)
    centres = np.asarray(tensors["centres"], np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        apart = x - tensors["centre"]
        coordinates = along(apart, tensors).astype(np.float64)
        z = coordinates * tensors["lengths"]
        nearest = (np.square(centres).sum(axis=1) - 2 * z @ centres.T).min(axis=1)
        if "between" in tensors:
            return nearest + np.square(z) @ np.asarray(tensors["between"], np.float64)
        found = nearest + np.square(z).sum(axis=1)
        if "rest" in tensors:
            outside = np.square(apart.astype(np.float64)).sum(axis=1) - np.square(coordinates).sum(axis=1)
            found = found + np.maximum(outside, 0) * tensors["rest"][0]
        return found


def _principal(apart: np.ndarray, dimensions: int, shrinkage: float | None) -> tuple[np.ndarray, np.ndarray, float]:
    """(variances (R,), directions (R, R), variance in all other directions) within classes, shrunk to a sphere.

    apart: (M, R) features less their class mean, of `dimensions` >= R. No variance is under FLOOR of their mean.
    """
    covariance = apart.T @ apart / len(apart)
    mean = np.trace(covariance) / dimensions
    if shrinkage is None:
        whole = np.square(covariance).sum()
        away = whole - dimensions * mean**2
        noise = (np.square(np.square(apart).sum(axis=1)).mean() - whole) / len(apart)
        shrinkage = float(np.clip(noise / away, 0, 1)) if away > 1e-12 * whole else 1.0
    variances, directions = np.linalg.eigh(covariance)
    least = FLOOR * mean if mean > 0 else 1.0
    variances = np.maximum((1 - shrinkage) * variances + shrinkage * mean, least)
    return variances, directions, max(shrinkage * mean, least)
