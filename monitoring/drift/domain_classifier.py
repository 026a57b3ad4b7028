"""Domain classifier: can it tell the window's features from the reference's?

Lopez-Paz & Oquab 2017, "Revisiting classifier two-sample tests"; the name is from Rabanser et al. 2019, "Failing
loudly". A ridge classifier on d random projections of the D features is scored on rows that it was not fitted to.
The projections do not depend on the data: principal directions of the reference would fit it better than any new row,
and would report drift where there is none. B windows are fitted at once, because only the labels differ between them.
"""

import numpy as np

DIRECTIONS = 128  # d
FOLDS = 5
RIDGE = 0.3  # of the mean eigenvalue
CLIP = 8.0  # standard deviations of the reference from its median: one extreme row must not dominate the fit


def projection(dimensions: int) -> np.ndarray:
    """(D, d) random directions; the identity if D is at most d."""
    if dimensions <= DIRECTIONS:
        return np.eye(dimensions, dtype=np.float32)
    rng = np.random.default_rng(dimensions)
    return (rng.standard_normal((dimensions, DIRECTIONS)) / np.sqrt(DIRECTIONS)).astype(np.float32)


def project(features: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Project both sides, (N, D) and (M, D), to (N, d) and (M, d).

    The unit is the standard deviation of the reference; values are clipped.

    Features must be finite.
    """
    directions = projection(reference.shape[1])
    with np.errstate(over="ignore", invalid="ignore"):
        base = reference @ directions
        middle, spread = np.median(base, axis=0), base.std(axis=0)
        spread = np.where(spread > 0, spread, 1.0)
        sides = [
            np.clip(np.nan_to_num((side - middle) / spread), -CLIP, CLIP) for side in (features @ directions, base)
        ]
    return sides[0].astype(np.float64), sides[1].astype(np.float64)


def folds(count: int, rng: np.random.Generator) -> np.ndarray:
    """(count,) fold of each row: random, of equal size."""
    return rng.permutation(np.arange(count) % FOLDS)


def out_of_fold(x: np.ndarray, fold: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """(N, B) scores on held-out folds; high means like the chosen rows.

    x: (N, d); fold: (N,); chosen: (N, B) bool.
    """
    scores = np.empty(chosen.shape)
    for part in range(FOLDS):
        here = fold == part
        seen = x[~here]
        y = chosen[~here].astype(np.float64)
        y -= y.mean(axis=0)
        centre = seen.mean(axis=0)
        seen = seen - centre
        scatter = seen.T @ seen
        scatter[np.diag_indices_from(scatter)] += RIDGE * np.trace(scatter) / len(scatter) + 1e-9
        scores[here] = (x[here] - centre) @ np.linalg.solve(scatter, seen.T @ y)
    return scores


def surprise(scores: np.ndarray, fold: np.ndarray, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(B,) area under the ROC curve, and (B,) how many standard errors it lies above one half.

    scores, chosen: (N, B); fold: (N,). The area is a mean over folds, because scores of two folds are not comparable. A
    fold without rows of one side does not count.
    """
    total, weight = np.zeros(scores.shape[1]), np.zeros(scores.shape[1])
    for part in range(FOLDS):
        here = fold == part
        ranks = _ranks(scores[here])
        inside = chosen[here]
        n, m = inside.sum(axis=0), (~inside).sum(axis=0)
        pairs = n * m
        area = ((ranks * inside).sum(axis=0) - n * (n + 1) / 2) / np.maximum(pairs, 1)
        total += np.where(pairs > 0, area * pairs, 0)
        weight += pairs
    auc = np.where(weight > 0, total / np.maximum(weight, 1), 0.5)
    n, m = chosen.sum(axis=0), (~chosen).sum(axis=0)
    return auc, (auc - 0.5) / error(n, m)


def error(n: np.ndarray | int, m: np.ndarray | int) -> np.ndarray:
    """Standard error of the area without drift (Mann & Whitney 1947)."""
    return np.sqrt((n + m + 1) / (12.0 * np.maximum(n * m, 1)))


def _ranks(scores: np.ndarray) -> np.ndarray:
    """Ranks 1 .. N of each column of (N, B); equal scores share their mean rank."""
    from scipy.stats import rankdata

    return rankdata(scores, axis=0)
