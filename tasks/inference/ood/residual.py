"""`vim`, `vim++`: what principal directions leave unexplained of the features, against the energy.

Wang et al. 2022, "ViM: out-of-distribution with virtual-logit matching". The origin is where the classifier's logits
are all 0. It is found from features and logits, so it works for a network of any kind. `vim++` takes features of unit
length: then images with weak features (dark, flat) do not look explained.
M training images, N images, D feature dimensions, K classes, R directions.
"""

import numpy as np

from tasks.inference.ood import energy
from tasks.inference.ood.features import RELATIVE, along, normalised, principal_directions


def fit(features: np.ndarray, logits: np.ndarray, task: str, *, unit: bool) -> tuple[dict, dict[str, np.ndarray]]:
    """({alpha}, tensors) of training features (M, D) and their logits (M, K). unit: scale features to unit length."""
    features = normalised(features) if unit else features
    x, given = np.asarray(features, np.float64), np.asarray(logits, np.float64)
    origin = _origin(x, given)
    axes = principal_directions(x - origin, principal(*x.shape))
    tensors = {"origin": origin.astype(np.float32), "axes": axes.astype(np.float32)}
    residual = _residual(x, tensors)
    strength = given.max(axis=1).mean() if task == "multiclass" else -energy.score(given, task).mean()
    return {"alpha": float(abs(strength) / max(residual.mean(), 1e-12))}, tensors


def score(
    features: np.ndarray, logits: np.ndarray, about: dict, tensors: dict[str, np.ndarray], *, unit: bool
) -> np.ndarray:
    """(N,) of features (N, D) and logits (N, K); NaN stays NaN."""
    features = normalised(features) if unit else features
    with np.errstate(invalid="ignore", over="ignore"):
        return about["alpha"] * _residual(features, tensors) + energy.score(logits, about["task"])


def principal(images: int, dimensions: int) -> int:
    """Number of directions that count as explained: as the paper chooses it, at most half of the images."""
    chosen = 1000 if dimensions >= 2048 else 512 if dimensions >= 768 else dimensions // 2
    return max(1, min(chosen, images // 2))


def _residual(features: np.ndarray, tensors: dict[str, np.ndarray]) -> np.ndarray:
    apart = np.asarray(features, np.float32) - tensors["origin"]
    explained = along(apart, tensors).astype(np.float64)
    return np.sqrt(np.maximum(np.square(apart.astype(np.float64)).sum(axis=1) - np.square(explained).sum(axis=1), 0))


def _origin(x: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """(D,) the shortest vector whose logits are 0, for the linear layer that made `logits` (M, K) of `x` (M, D)."""
    centre, middle = x.mean(axis=0), logits.mean(axis=0)
    weight = _linear(x - centre, logits - middle)
    return -np.linalg.pinv(weight.T) @ (middle - centre @ weight)


def _linear(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(D, K) the shortest solution of x (M, D) @ weight = y (M, K), of centred x and y.

    By the normal equations, of rows where they are fewer: several times faster than a singular value decomposition.
    """
    few = len(x) < x.shape[1]
    products = x @ x.T if few else x.T @ x
    strength = np.trace(products)
    products.flat[:: len(products) + 1] += RELATIVE * strength if strength > 0 else 1.0
    solved = np.linalg.solve(products, y if few else x.T @ y)
    return x.T @ solved if few else solved
