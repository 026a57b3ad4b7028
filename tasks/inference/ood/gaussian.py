"""`mahalanobis`, `rmds`, `rmds++`: distance to the nearest class, in units of spread within classes.

- `mahalanobis` (Lee et al. 2018, "A simple unified framework for detecting out-of-distribution samples and adversarial
  attacks"): each class is a Gaussian around its mean, all with one covariance.
- `rmds` (Ren et al. 2021, "A simple fix to Mahalanobis distance for improving near-OOD detection"): minus the distance
  to one Gaussian of all images. What is far from everything in every direction cancels out.
- `rmds++` (Mueller & Hein 2025, "Mahalanobis++: improving OOD detection via feature normalization"): the same on
  features of unit length.

The covariance of all images is that within classes plus that of the class means. So after whitening, the two distances
differ only along the directions in which the means differ: `rmds` keeps these K - 1 directions at most. They come from
one solution per class of the covariance's equations. `mahalanobis` needs all of its principal directions.
The covariance is shrunk as by Ledoit & Wolf 2004, "A well-conditioned estimator for large-dimensional covariance
matrices", so fewer images than dimensions, duplicate and constant dimensions are safe.
M training images, N images, D feature dimensions, K classes, R directions kept.
"""

import numpy as np

from tasks.inference.ood.features import RELATIVE, along, normalised, principal_directions, stored_axes

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
    apart, counts = x[rows] - centre, np.bincount(classes).astype(np.float64)
    means = np.add.reduceat(apart, np.searchsorted(classes, np.arange(len(counts))), axis=0) / counts[:, None]
    between = rest = None
    if relative:
        axes, between = _between(apart - means[classes], means, counts / counts.sum(), shrinkage)
    else:
        axes, rest = _within(apart, means, classes, shrinkage)
    tensors = {"centre": centre.astype(np.float32), **stored_axes(axes)}
    tensors["centres"] = (along(means, tensors) * tensors["lengths"]).astype(np.float32)
    if between is not None:
        tensors["between"] = (between / (1 + between)).astype(np.float32)
    elif rest is not None:
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


def _within(
    apart: np.ndarray, means: np.ndarray, classes: np.ndarray, shrinkage: float | None
) -> tuple[np.ndarray, float | None]:
    """(whitening axes (D, R), variance in all other directions: None where R is D).

    apart: (M, D) features less their mean; means: (K, D) of classes, likewise; classes: (M,) numbers.
    """
    basis, dimensions = None, apart.shape[1]  # directions (D, R) outside of which the training images do not vary
    if len(apart) <= dimensions:
        basis = principal_directions(apart, len(apart))
        apart, means = apart @ basis, means @ basis
    variances, directions, rest = _principal(apart - means[classes], dimensions, shrinkage)
    axes = directions / np.sqrt(variances)
    return (axes, None) if basis is None else (basis @ axes, rest)


def _between(
    apart: np.ndarray, means: np.ndarray, shares: np.ndarray, shrinkage: float | None
) -> tuple[np.ndarray, np.ndarray]:
    """(whitening axes (D, R) along which class means differ, variance (R,) of the means along them).

    apart: (M, D) features less their class mean; means: (K, D) of classes; shares: (K,) of the images in each class.
    """
    root = np.sqrt(shares)[:, None] * means
    solved = _solve(apart, root.T, shrinkage)  # (D, K)
    between, turn = np.linalg.eigh(root @ solved)
    strongest = np.argsort(-between)[: max(1, min(len(means) - 1, MOST_AXES, means.shape[1]))]
    between = np.maximum(between[strongest], 0)
    real = between > RELATIVE * between[0]
    real[0] = True  # one class: an axis of zeros
    between = between[real]
    return solved @ turn[:, strongest[real]] / np.sqrt(np.maximum(between, 1e-300)), between


def _solve(apart: np.ndarray, right: np.ndarray, shrinkage: float | None) -> np.ndarray:
    """(D, K) the shrunk covariance of `apart` (M, D), inverted, times `right` (D, K)."""
    images, dimensions = apart.shape
    if images < dimensions:
        products, shrunk, mean, least = _shrunk(apart, dimensions, shrinkage, of_rows=True)
        if shrunk * mean >= least:  # by Woodbury's identity: a system of M equations in place of D
            products *= 1 - shrunk
            products.flat[:: images + 1] += shrunk * mean
            explained = apart.T @ np.linalg.solve(products, apart @ right) / images
            return (right - (1 - shrunk) * explained) / (shrunk * mean)
    covariance, shrinkage, mean, least = _shrunk(apart, dimensions, shrinkage)
    if shrinkage * mean >= least:  # no direction can have less: nothing to raise
        covariance *= 1 - shrinkage
        covariance.flat[:: len(covariance) + 1] += shrinkage * mean
        return np.linalg.solve(covariance, right)
    variances, directions, _ = _raised(covariance, shrinkage, mean, least)
    return directions @ ((directions.T @ right) / variances[:, None])


def _principal(apart: np.ndarray, dimensions: int, shrinkage: float | None) -> tuple[np.ndarray, np.ndarray, float]:
    """(variances (R,), directions (R, R), variance in all other directions) within classes, shrunk to a sphere.

    apart: (M, R) features less their class mean, of `dimensions` >= R. No variance is under FLOOR of their mean.
    """
    return _raised(*_shrunk(apart, dimensions, shrinkage))


def _raised(
    covariance: np.ndarray, shrinkage: float, mean: float, least: float
) -> tuple[np.ndarray, np.ndarray, float]:
    """(variances (R,), directions (R, R), variance elsewhere) of a covariance (R, R), shrunk, none under `least`."""
    variances, directions = np.linalg.eigh(covariance)
    variances = np.maximum((1 - shrinkage) * variances + shrinkage * mean, least)
    return variances, directions, max(shrinkage * mean, least)


def _shrunk(
    apart: np.ndarray, dimensions: int, shrinkage: float | None, of_rows: bool = False
) -> tuple[np.ndarray, float, float, float]:
    """(covariance (R, R), how much to shrink it, mean variance, least variance) of `apart` (M, R).

    of_rows: in place of the covariance the (M, M) products of rows, of the same trace and sum of squares.
    """
    covariance = (apart @ apart.T if of_rows else apart.T @ apart) / len(apart)
    mean = np.trace(covariance) / dimensions
    if shrinkage is None:
        whole = np.square(covariance).sum()
        away = whole - dimensions * mean**2
        noise = (np.square(np.square(apart).sum(axis=1)).mean() - whole) / len(apart)
        shrinkage = float(np.clip(noise / away, 0, 1)) if away > 1e-12 * whole else 1.0
    return covariance, shrinkage, mean, FLOOR * mean if mean > 0 else 1.0
