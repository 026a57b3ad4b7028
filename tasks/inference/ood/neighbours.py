"""`knn`: distance of the L2-normalised feature to its k-th nearest training feature, 0..2.

Sun et al. 2022, "Out-of-distribution detection with deep nearest neighbors". The bank is a class-balanced sample of the
training features, so that a rare class keeps its neighbours. N images, D feature dimensions, M rows of the bank.
"""

import numpy as np

from tasks.inference.ood.features import normalised

NEIGHBOURS = 10


def fit(features: np.ndarray) -> tuple[dict, dict[str, np.ndarray]]:
    """({k}, {bank}) of training features (M, D)."""
    return {"k": min(NEIGHBOURS, len(features))}, {"bank": normalised(features).astype(np.float16)}


def score(features: np.ndarray, about: dict, tensors: dict[str, np.ndarray]) -> np.ndarray:
    """(N,) distance of each row of `features` (N, D) to its k-th nearest row of the bank; NaN stays NaN."""
    bank = np.asarray(tensors["bank"], np.float32)
    nearest = np.partition(normalised(features) @ bank.T, -about["k"], axis=1)[:, -about["k"]]
    return np.sqrt(np.maximum(2 - 2 * nearest, 0))
