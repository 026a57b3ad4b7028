"""Reference images to show next to moved ones: the nearest by features, with the same answer.

N moved rows, M reference rows, D feature dimensions, K classes.
"""

import numpy as np

BESIDE = 2  # reference images for each moved one


def nearest_alike(
    features: np.ndarray, answers: np.ndarray, reference: np.ndarray, given: np.ndarray, most: int = BESIDE
) -> list[list[int]]:
    """For each moved row, the reference rows with the same answer that are nearest to it, the nearest first.

    features: (N, D); answers: (N, K) bool; reference: (M, D); given: (M, K) bool, the model's answers to the reference.
    Where no reference row has the same answer, all are looked at. Rows with features that are not finite match nothing.
    """
    usable = np.isfinite(reference).all(axis=1)
    found = []
    for row, answer in zip(features, answers, strict=True):
        if not np.isfinite(row).all() or not usable.any():
            found.append([])
            continue
        same = np.flatnonzero(usable & (given == answer).all(axis=1))
        looked = same if len(same) else np.flatnonzero(usable)
        gaps = np.linalg.norm(reference[looked] - row, axis=1)
        found.append(looked[np.argsort(gaps, kind="stable")[:most]].tolist())
    return found
