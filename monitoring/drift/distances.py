"""Distances between a window and the reference, and their p-values. Arrays in, numbers out.

N rows of the window, M of the reference, n = N M / (N + M) their effective size. Each distance has a scale on which
its distribution without drift hardly depends on N and M, so one calibration serves windows of any size:

- Kolmogorov-Smirnov distance of one number (Stephens 1970, "Use of the Kolmogorov-Smirnov, Cramer-Von Mises and
  related statistics without extensive tables"): (sqrt(n) + 0.12 + 0.11 / sqrt(n)) D follows Kolmogorov's distribution;
- population stability index of shares over C categories, with half a row added to each: n PSI follows chi-squared with
  C - 1 degrees of freedom (Yurdakul & Naranjo 2020, "Statistical properties of the population stability index");
- distance d of the means of vectors along R whitened directions (Hotelling 1931, "The generalization of Student's
  ratio"): n d^2 follows chi-squared with R degrees of freedom.

These p-values only provide a common scale. monitoring.drift.calibration measures how small the smallest of them gets
without drift, for one model.
"""

import numpy as np

NARROW = 1e-3  # of the widest variance; narrower directions are rounding errors
LEAST = 1e-300  # smaller p-values are clipped: no decision depends on them


def effective(n: float | np.ndarray, m: float | np.ndarray) -> float | np.ndarray:
    """The effective size N M / (N + M) of two samples."""
    return n * m / np.maximum(n + m, 1)


def ks(window: np.ndarray, reference: np.ndarray) -> float:
    """Kolmogorov-Smirnov distance of (N,) and (M,) finite values; `reference` is sorted.

    The largest gap lies at a reference value or just before one. Only these are looked up, so the cost is one sort of
    the window.
    """
    ordered = np.sort(window)
    gaps = [
        np.abs(
            np.searchsorted(ordered, reference, side) / len(ordered)
            - np.searchsorted(reference, reference, side) / len(reference)
        )
        for side in ("left", "right")
    ]
    return float(np.max(gaps))


def ks_splits(values: np.ndarray, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """KS distance of the chosen values to the others: (B,) distances, (B,) effective sizes.

    values: (M,) with NaN where missing; chosen: (B, M) bool.
    """
    known = np.flatnonzero(np.isfinite(values))
    order = known[np.argsort(values[known], kind="stable")]
    if len(order) < 2:
        return np.zeros(len(chosen)), np.zeros(len(chosen))
    ordered = values[order]
    last = np.append(ordered[1:] != ordered[:-1], True)  # equal values count at once
    taken = np.cumsum(chosen[:, order], axis=1, dtype=np.float32)
    inside = taken[:, -1:]
    outside = len(order) - inside
    rest = np.arange(1, len(order) + 1, dtype=np.float32) - taken
    gap = np.abs(taken / np.maximum(inside, 1) - rest / np.maximum(outside, 1))[:, last].max(axis=1)
    return gap, effective(inside[:, 0], outside[:, 0])


def psi(window: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Population stability index of counts (..., C) against counts (..., C)."""
    p, q = shares(window), shares(reference)
    return ((p - q) * np.log(p / q)).sum(axis=-1)


def kl(window: np.ndarray, reference: np.ndarray) -> float:
    """Kullback-Leibler divergence of the window's shares from the reference's, nats; counts (C,)."""
    p, q = shares(window), shares(reference)
    return float((p * np.log(p / q)).sum())


def shares(counts: np.ndarray) -> np.ndarray:
    """Shares with half a row added to each category, so that an empty category does not give infinity."""
    counts = np.asarray(counts, float) + 0.5
    return counts / counts.sum(axis=-1, keepdims=True)


def whitening(vectors: np.ndarray) -> np.ndarray:
    """(C, R) directions that make the rows of `vectors` (M, C) uncorrelated with variance 1.

    The widest direction is first.

    R is at most M / 10: a narrow direction fitted to few rows would be too narrow for all other rows.
    """
    widths, axes = np.linalg.eigh(np.atleast_2d(np.cov(vectors, rowvar=False)))
    kept = [k for k in np.argsort(-widths)[: max(len(vectors) // 10, 1)] if widths[k] > NARROW * widths.max()]
    return axes[:, kept] / np.sqrt(widths[kept])


def ks_p(distance: np.ndarray | float, n: np.ndarray | float) -> np.ndarray:
    """Probability of a distance this large without drift. n: effective size."""
    from scipy.special import kolmogorov

    root = np.sqrt(n)
    return np.clip(kolmogorov((root + 0.12 + 0.11 / np.maximum(root, 1e-9)) * distance), LEAST, 1)


def ks_at(p: float, n: float) -> float:
    """The Kolmogorov-Smirnov distance that has probability `p`; at most 1."""
    from scipy.special import kolmogi

    root = np.sqrt(n)
    return min(1.0, float(kolmogi(p)) / (root + 0.12 + 0.11 / root))


def psi_p(index: np.ndarray | float, n: np.ndarray | float, categories: int) -> np.ndarray:
    """Probability of a stability index this large without drift."""
    from scipy.special import chdtrc

    return np.clip(chdtrc(max(categories - 1, 1), n * index), LEAST, 1)


def mean_p(distance: np.ndarray | float, n: np.ndarray | float, directions: int) -> np.ndarray:
    """Probability of a distance of means this large without drift."""
    from scipy.special import chdtrc

    return np.clip(chdtrc(max(directions, 1), n * distance**2), LEAST, 1)


def mean_at(p: float, n: float, directions: int) -> float:
    """The distance of means that has probability `p`."""
    from scipy.special import chdtri

    return float(np.sqrt(chdtri(max(directions, 1), p) / n))


def psi_at(p: float, n: float, categories: int) -> float:
    """The stability index that has probability `p`."""
    from scipy.special import chdtri

    return float(chdtri(max(categories - 1, 1), p)) / n
