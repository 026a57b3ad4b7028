"""An anomaly score for one very rare class: unlike all other classes, like its own images.

With a few images, distances say more than a fitted boundary. Two scores are compared with the classifier's own on
calibration images: `knn` is the distance to the nearest images of other classes minus that to the nearest image of
the class (of features of unit length), `mahalanobis` the same with distances to Gaussians with one covariance.
N samples, M training images, D feature dimensions.
"""

from dataclasses import dataclass

import numpy as np

from tasks.models.heads import gaussian

NEIGHBOURS = 5
BANK = 2000  # images of other classes that are compared with
SHRINKAGE = 0.3
CHUNK = 1024


@dataclass(frozen=True)
class Bank:
    """Unit features of training images: own (n, D) of the rare class, others (m, D)."""

    own: np.ndarray
    others: np.ndarray


@dataclass(frozen=True)
class Found:
    """Area under the ROC curve of the rare class against all others on held-out images, by score."""

    aucs: dict[str, float]
    images: int  # held-out images of the class

    @property
    def best(self) -> str:
        """The score with the largest area, the classifier's own on a tie."""
        return max(self.aucs, key=lambda name: (self.aucs[name], name == "classifier"))

    def sentence(self, name: str) -> str:
        """Which score finds the class `name` best."""
        each = ", ".join(f"{score} {value:.3f}" for score, value in self.aucs.items())
        what = "the classifier's own score" if self.best == "classifier" else f"the anomaly score {self.best}"
        found = f"On {self.images} calibration images of {name!r}, {what} tells it best from others"
        return f"{found} (area under the ROC curve: {each})."


def unit(x: np.ndarray) -> np.ndarray:
    x = np.asarray(x, np.float32)
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def bank(x: np.ndarray, y: np.ndarray, rare: int, seed: int = 0) -> Bank:
    """The bank of features x (M, D) with classes y (M,): at most BANK images of the other classes, drawn at random."""
    others = np.flatnonzero(y != rare)
    if len(others) > BANK:
        others = np.sort(np.random.default_rng(seed).choice(others, BANK, replace=False))
    return Bank(unit(x[np.flatnonzero(y == rare)]), unit(x[others]))


def knn(x: np.ndarray, of: Bank) -> np.ndarray:
    """(N,) distance to the NEIGHBOURS-th nearest other image minus that to the nearest of the class."""
    out = np.empty(len(x), np.float32)
    place = min(NEIGHBOURS, len(of.others)) - 1
    for start in range(0, len(x), CHUNK):
        rows = unit(x[start : start + CHUNK])
        near = np.partition(-(rows @ of.others.T), place, axis=1)[:, place]
        out[start : start + CHUNK] = near + (rows @ of.own.T).max(axis=1)
    return out


def mahalanobis(x: np.ndarray, found: gaussian.Moments, rare: int) -> np.ndarray:
    """(N,) squared distance to the nearest other class minus that to the class, both in the common covariance."""
    head = gaussian.gaussian(found, SHRINKAGE)
    logits = np.asarray(x, np.float32) @ head.weight.T + head.bias
    others = np.delete(np.arange(len(head.bias)), rare)
    return 2 * (logits[:, rare] - logits[:, others].max(axis=1))


def compare(
    train: tuple[np.ndarray, np.ndarray],
    held_out: tuple[np.ndarray, np.ndarray],
    logits: np.ndarray,
    rare: int,
) -> Found | None:
    """Areas of both scores and of the classifier's `logits` (N, K) on `held_out` (features, classes).

    None where either part has no image of the class `rare`, or none of another.
    """
    from sklearn.metrics import roc_auc_score

    (x, y), (held_x, held_y) = train, held_out
    is_rare = held_y == rare
    if not (y == rare).any() or not is_rare.any() or is_rare.all():
        return None
    own = logits[:, rare] - np.delete(logits, rare, axis=1).max(axis=1)
    scores = {
        "classifier": own,
        "knn": knn(held_x, bank(x, y, rare)),
        "mahalanobis": mahalanobis(held_x, gaussian.moments(x, y, logits.shape[1]), rare),
    }
    return Found({name: float(roc_auc_score(is_rare, score)) for name, score in scores.items()}, int(is_rare.sum()))
