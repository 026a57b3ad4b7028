"""Find images of one object by their pretrained features: exact nearest neighbours that stand out.

The perceptual hash finds copies of a photo; this finds other photos of the same object, scene or moment (siblings).
Features are whitened first: what varies among all images counts less, what is peculiar to an object counts more.

A pair of siblings is not defined by a fixed cosine, because images of one class are far more alike in some data sets
than in others. Two images are siblings if each is among the other's nearest, and nearer by a clear gap than the
RANK-th nearest of either (compare the ratio test in D. Lowe, "Distinctive Image Features from Scale-Invariant
Keypoints", 2004).
"""

from dataclasses import dataclass

import numpy as np

ROWS, COLUMNS = 2048, 4096  # rows compared at a time: 32 MB of cosines
DIMENSIONS = 512  # of the whitened features; more finds hardly more siblings and costs time
SHRINKAGE = 0.5  # added to each direction's variance, in mean variances: keeps noise from being blown up
FIT_ROWS = 20_000  # images from which the whitening is estimated
RANK = 6  # a sibling is nearer than the RANK-th nearest by GAP; of more than RANK siblings not all are found
GAP = 0.28  # in cosine of whitened features
LEAST_ROWS = 50  # fewer images say too little about what is usual


@dataclass(frozen=True)
class Whitening:
    """Whitened unit vectors of feature rows: `mean` (D,), `basis` (D, d), float32."""

    mean: np.ndarray
    basis: np.ndarray

    def apply(self, features: np.ndarray) -> np.ndarray:
        """(N, D) features as (N, d) float32 rows of length 1; rows that equal the mean are 0."""
        units = np.empty((len(features), self.basis.shape[1]), np.float32)
        for start in range(0, len(features), ROWS):
            part = (np.asarray(features[start : start + ROWS], np.float32) - self.mean) @ self.basis
            length = np.linalg.norm(part, axis=1, keepdims=True)
            units[start : start + ROWS] = np.divide(part, length, out=np.zeros_like(part), where=length > 1e-9)
        return units


def fit_whitening(features: np.ndarray, seed: int = 0) -> Whitening:
    """Estimate the whitening from at most FIT_ROWS of `features` (N, D)."""
    rows = np.arange(len(features))
    if len(rows) > FIT_ROWS:
        rows = np.sort(np.random.default_rng(seed).choice(rows, FIT_ROWS, replace=False))
    x = np.asarray(features[rows], np.float32)
    mean = x.mean(axis=0)
    x = x - mean
    variance, directions = np.linalg.eigh(x.T @ x / max(len(x), 1))
    keep = np.arange(len(variance))[::-1][:DIMENSIONS]
    scale = np.maximum(variance[keep], 0) + SHRINKAGE * max(float(variance.mean()), 1e-12)
    return Whitening(mean, (directions[:, keep] / np.sqrt(scale)).astype(np.float32))


def nearest(units: np.ndarray, k: int, base: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The `k` rows of `base` (M, d) with the largest cosine to each of `units` (N, d), largest first.

    Returns (index (N, k) int64, cosine (N, k) float32). Without `base` they are searched among `units`, and a row is
    never its own neighbour. Where there are fewer than k, the index is -1 and the cosine -1. Exact; memory is about
    ROWS x COLUMNS cosines whatever N and M are.
    """
    alone = base is None
    base = units if alone else base
    index, cosine = np.full((len(units), k), -1, np.int64), np.full((len(units), k), -1, np.float32)
    for start in range(0, len(units), ROWS):
        rows = slice(start, start + ROWS)
        queries, found, best = units[rows], index[rows], cosine[rows]
        for first in range(0, len(base), COLUMNS):
            values = queries @ base[first : first + COLUMNS].T
            if alone:
                own = np.arange(max(start, first), min(start + len(queries), first + values.shape[1]))
                values[own - start, own - first] = -1
            _merge(found, best, values, first)
    return index, cosine


def _merge(found: np.ndarray, best: np.ndarray, values: np.ndarray, first: int) -> None:
    """Put those of `values` (R, C) that beat the worst of `best` (R, k) into `found` and `best`, in place."""
    k = best.shape[1]
    beats = values > best[:, -1:]
    if np.count_nonzero(beats) > 8 * k * len(values):  # the first columns: all of them beat nothing
        k_best = np.argpartition(values, -min(k, values.shape[1]), axis=1)[:, -k:]
        row, column = np.repeat(np.arange(len(values)), k_best.shape[1]), k_best.ravel()
    else:
        row, column = np.nonzero(beats)
    if not len(row):
        return
    rows = np.unique(row)
    index = np.concatenate([column + first, found[rows].ravel()])
    value = np.concatenate([values[row, column], best[rows].ravel()])
    owner = np.concatenate([row, np.repeat(rows, k)])
    order = np.lexsort((index, -value, owner))  # equal cosines: the smaller index first
    owner, index, value = owner[order], index[order], value[order]
    starts = np.searchsorted(owner, rows)
    chosen = starts[:, None] + np.arange(k)  # every row has at least its k old entries
    found[rows], best[rows] = index[chosen], value[chosen]


def sibling_pairs(units: np.ndarray, gap: float = GAP) -> np.ndarray:
    """Pairs of images that are probably of one object, (P, 2) int64, first < second, sorted; P < N * RANK.

    `units` (N, d) are rows of Whitening.apply. Fewer than LEAST_ROWS images give none.
    """
    if len(units) < LEAST_ROWS:
        return np.empty((0, 2), np.int64)
    index, cosine = nearest(units, RANK)
    beyond = cosine[:, -1]
    near = index[:, :-1]
    first, second = np.repeat(np.arange(len(units)), near.shape[1]), near.ravel()
    clear = cosine[:, :-1].ravel() - np.maximum(beyond[first], beyond[second]) >= gap
    first, second = first[clear], second[clear]
    mutual = (near[second] == first[:, None]).any(axis=1) & (first < second)
    pairs = np.stack([first[mutual], second[mutual]], axis=1)
    return pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]
