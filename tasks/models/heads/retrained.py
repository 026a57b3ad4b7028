"""Classifiers that are trained again on the features, so that rare classes count for more.

N samples, K classes, D feature dimensions.
"""

from collections.abc import Sequence

import numpy as np

from tasks.dataset.shard_table import ShardTable
from tasks.models import probe, standardised
from tasks.models.head import Head
from tasks.scoring.targets import class_counts

L2S = (0.1, 0.03, 0.01)  # of crt, on standardised features: the best differs with the backbone's training
SOUP_L2S = (0.1, 0.03)
NATURAL_L2 = 0.03  # of a classifier of the natural distribution, in place of stage 1's
NEIGHBOURS = 5  # of one class, between which SMOTE draws
SEVERAL = 5  # heads of balanced subsets
BETA = 0.999  # of the effective number of samples
PASSES = 40  # of max_norm over the features
BOUNDS = (0.1, 0.2, 0.4)  # of max_norm, on standardised features
MAX_NORM_L2, POWER_STEPS = 0.005, 8


def natural(x: ShardTable | np.ndarray, y: np.ndarray, classes: int) -> Head:
    """A classifier of `x` (N, D) on `y` as often as each class is there: what stage 1 ends with, without stage 1."""
    fitted = probe.fit(x, y, classes, l2=NATURAL_L2)
    return Head(fitted.weight, fitted.bias)


def balancing_weights(y: np.ndarray, classes: int) -> np.ndarray:
    """(N,) weights that give every class of `y` the same total.

    For multi-label `y`, a sample has the weight of its rarest label, or of the most common one if it has none.
    """
    share = 1 / np.maximum(class_counts(y, classes), 1)
    return share[y] if y.ndim == 1 else np.maximum((y * share).max(axis=1), share.min())


def retrained(
    x: ShardTable | np.ndarray, y: np.ndarray, classes: int, iterations: int, l2s: Sequence[float] = L2S
) -> list[Head]:
    """crt: new classifiers of `x` (N, D) on `y`, one for each of `l2s`, with the same total weight for every class.

    Kang et al. 2020, "Decoupling representation and classifier for long-tailed recognition".
    """
    weight = balancing_weights(y, classes)
    heads, fitted = [], None
    for l2 in l2s:  # each starts from the one before, which has a stronger penalty
        fitted = probe.fit(x, y, classes, sample_weight=weight, l2=l2, iterations=iterations, start=fitted)
        heads.append(Head(fitted.weight, fitted.bias, l2))
    return heads


def smote(x: np.ndarray, y: np.ndarray, classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(features, classes) of new samples of classes below the median: each between two near ones of its class.

    Chawla et al. 2002, "SMOTE: synthetic minority over-sampling technique". Each class gets as many as the median
    class has; one with a single sample gets copies.
    """
    rng = np.random.default_rng(seed)
    counts = np.bincount(y, minlength=classes)
    target = int(np.median(counts[counts > 0]))
    new_x, new_y = [], []
    for k in np.flatnonzero((counts > 0) & (counts < target)):
        own = np.asarray(x[np.flatnonzero(y == k)], np.float32)
        distance = np.square(own).sum(axis=1)[:, None] - 2 * own @ own.T + np.square(own).sum(axis=1)
        near = np.argsort(distance, axis=1)[:, 1 : 1 + NEIGHBOURS] if len(own) > 1 else np.zeros((1, 1), int)
        start = rng.integers(len(own), size=target - len(own))
        other = near[start, rng.integers(near.shape[1], size=len(start))]
        new_x.append(own[start] + rng.random((len(start), 1), dtype=np.float32) * (own[other] - own[start]))
        new_y.append(np.full(len(start), k))
    if not new_x:
        return np.empty((0, x.shape[1]), np.float32), np.empty(0, y.dtype)
    return np.concatenate(new_x), np.concatenate(new_y)


def subset_weights(y: np.ndarray, classes: int, seed: int) -> np.ndarray:
    """(SEVERAL, N) of 0 and 1: subsets in which no class has more samples than a bound that grows from one to the next.

    The bounds lie evenly (by ratio) between the rarest class's samples and the most common one's, so the first subset
    is balanced and the last is nearly natural.
    """
    rng = np.random.default_rng(seed)
    counts = np.bincount(y, minlength=classes)
    there = counts[counts > 0]
    bounds = np.geomspace(max(there.min(), 2), there.max(), SEVERAL + 1)[:-1]
    weights = np.zeros((SEVERAL, len(y)), np.float32)
    for k in np.flatnonzero(counts):
        members = np.flatnonzero(y == k)
        for row, bound in zip(weights, bounds, strict=True):
            row[rng.permutation(members)[: round(bound)]] = 1
    return weights


def with_new_samples(x: ShardTable | np.ndarray, y: np.ndarray, classes: int, seed: int, iterations: int) -> list[Head]:
    """smote: `retrained` on the samples and the new ones of `smote`."""
    new_x, new_y = smote(x, y, classes, seed)
    together = np.concatenate([np.asarray(x[:], np.float32), new_x])
    return retrained(together, np.concatenate([y, new_y]), classes, iterations)


def averaged(x: ShardTable | np.ndarray, y: np.ndarray, classes: int, seed: int, iterations: int) -> list[Head]:
    """soup: the mean of heads that are each fitted on one of the subsets of `subset_weights`, for each of SOUP_L2S.

    After LT-Soups (2025), which averages whole models of balanced subsets.
    """
    weights, heads, fitted = subset_weights(y, classes, seed), [], None
    for l2 in SOUP_L2S:
        fitted = probe.fit_many(x, y, classes, weights, l2=l2, iterations=iterations, start=fitted)
        mean = [np.mean(parts, axis=0) for parts in zip(*((one.weight, one.bias) for one in fitted), strict=True)]
        heads.append(Head(*mean, l2))
    return heads


def effective_weights(y: np.ndarray, classes: int, beta: float = BETA) -> np.ndarray:
    """(N,) class-balanced weights by the effective number of samples (1 - beta^n) / (1 - beta) of a class with n.

    Cui et al. 2019, "Class-balanced loss based on effective number of samples".
    """
    counts = np.bincount(y, minlength=classes)
    effective = (1 - beta**counts) / (1 - beta)
    return (1 / np.maximum(effective, 1))[y]


def max_norm(
    x: ShardTable | np.ndarray, y: np.ndarray, classes: int, bounds: Sequence[float] = BOUNDS, iterations: int = PASSES
) -> list[Head]:
    """Class-balanced logistic regressions in which no class's weights (of standardised features) exceed a norm.

    Alshammari et al. 2022, "Long-tailed recognition via weight balancing": class-balanced loss, weight decay and a
    bound on norms, by projected gradient steps with momentum (Nesterov). One head for each of `bounds`, which share
    the `iterations` passes over the features `x` (N, D).
    """
    mean, deviation = standardised.moments(x)
    rows = standardised.Standardised(x, mean, deviation)
    share = effective_weights(y, classes)
    share = (share / share.sum()).astype(np.float32)
    limit = np.asarray(bounds, np.float32)[:, None, None]
    weight, bias = np.zeros((len(limit), classes, x.shape[1]), np.float32), np.zeros((len(limit), classes), np.float32)
    step = 1 / (0.5 * _curvature(rows, share, x.shape[1]) + MAX_NORM_L2)
    ahead, ahead_bias = weight, bias
    for number in range(iterations):
        slope, slope_bias = np.zeros_like(weight), np.zeros_like(bias)
        for part, z in rows.chunks():
            p = probe.softmax((z @ ahead.reshape(-1, z.shape[1]).T).reshape(len(z), *bias.shape) + ahead_bias)
            p[np.arange(len(p)), :, y[part]] -= 1
            p *= share[part, None, None]
            slope += (p.reshape(len(z), -1).T @ z).reshape(slope.shape)
            slope_bias += p.sum(axis=0)
        last, last_bias = weight, bias
        weight = _within(ahead - step * (slope + MAX_NORM_L2 * ahead), limit)
        bias = ahead_bias - step * slope_bias
        momentum = number / (number + 3)
        ahead, ahead_bias = weight + momentum * (weight - last), bias + momentum * (bias - last_bias)
    scaled = weight / deviation
    offset = bias - scaled @ mean
    return [
        Head(one.astype(np.float32), b.astype(np.float32), bound)
        for one, b, bound in zip(scaled, offset, bounds, strict=True)
    ]


def _within(weight: np.ndarray, bound: np.ndarray) -> np.ndarray:
    """`weight` (..., K, D) with each class's norm at most `bound`."""
    norms = np.linalg.norm(weight, axis=-1, keepdims=True)
    return weight * np.minimum(1, bound / np.maximum(norms, 1e-12))


def _curvature(rows: "probe.Standardised", share: np.ndarray, dimensions: int) -> float:
    """The largest eigenvalue of the weighted second moments of the rows with a constant 1, by power iteration."""
    v = np.random.default_rng(0).normal(size=dimensions + 1).astype(np.float32)
    value = 1.0
    for _ in range(POWER_STEPS):
        v /= np.linalg.norm(v)
        out = np.zeros_like(v)
        for part, z in rows.chunks():
            along = share[part] * (z @ v[:-1] + v[-1])
            out[:-1] += z.T @ along
            out[-1] += along.sum()
        value, v = float(np.linalg.norm(out)), out
    return 1.1 * value
