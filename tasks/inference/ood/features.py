"""Helpers that several scores share: unit length, principal directions, small tensors.

M training images, N images, D feature dimensions, R directions.
"""

import numpy as np

RELATIVE = 1e-12  # of the greatest variance: directions with less do not exist beyond rounding


def normalised(features: np.ndarray) -> np.ndarray:
    """(N, D) float32 rows of unit length; a row that is not finite gives NaN."""
    features = np.asarray(features, np.float32)
    with np.errstate(invalid="ignore"):
        return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)


def principal_directions(apart: np.ndarray, most: int) -> np.ndarray:
    """(D, R) the `most` directions in which the centred rows of `apart` (M, D) vary most; R <= most, M, D.

    With fewer rows than dimensions, the eigenvectors come from the (M, M) products of rows: the same and far cheaper.
    """
    apart = np.asarray(apart, np.float64)
    few = len(apart) < apart.shape[1]
    strengths, found = np.linalg.eigh(apart @ apart.T if few else apart.T @ apart)
    strongest = np.argsort(-strengths)[:most]
    strongest = strongest[strengths[strongest] > RELATIVE * max(strengths[-1], 0)]
    if not few:
        return found[:, strongest]
    return (apart.T @ found[:, strongest]) / np.sqrt(strengths[strongest])


def stored_axes(axes: np.ndarray) -> dict[str, np.ndarray]:
    """`axes` (D, R) as tensors: directions of unit length in float16, their lengths in float32.

    A direction's length can be 10,000 times another's: float16 alone would lose the short ones.
    """
    length = np.linalg.norm(axes, axis=0)
    return {
        "axes": (axes / np.maximum(length, 1e-300)).astype(np.float16),
        "lengths": length.astype(np.float32),
    }


def along(centred: np.ndarray, tensors: dict[str, np.ndarray]) -> np.ndarray:
    """(N, R) float32 coordinates of `centred` (N, D) along the stored directions, without their lengths."""
    return np.asarray(centred, np.float32) @ np.asarray(tensors["axes"], np.float32)
