"""Methods that rank unlabelled images by how much their labels would teach.

Each takes the pool (N images), how many picks are needed, a random generator and the picks so far, and returns row
numbers, best first, at least one. The caller (tasks.active.pick) leaves out what quotas and near-duplicates rule out
and asks again for the rest. N images, D feature dimensions, K classes.
"""

from collections.abc import Callable

import numpy as np

from tasks.active.pool import Pool
from tasks.models import probe

CLUSTERS = 500  # at most: smaller clusters have no typical image (Hacohen et al.)
NEIGHBOURS = 20  # that say how typical an image is of its cluster
MASKS, DROPPED = 3, 0.75  # dropout masks per image, share of features that each drops (Gupta et al.)
FAVOUR = 4  # power of ranks that are multiplied with distances: favours the top ones
PROJECTED = 128  # dimensions in which k-means runs
ITERATIONS = 25  # of k-means; few images change their cluster after so many
BLOCK = 1024  # rows whose distances to all others are in memory at once


def random(pool: Pool, count: int, rng: np.random.Generator, picked: Pool) -> np.ndarray:
    """A random order: the baseline, and the only picks that calibration and test images may come from."""
    return rng.permutation(len(pool))


def uncertainty(pool: Pool, count: int, rng: np.random.Generator, picked: Pool) -> np.ndarray:
    """By the probability of the most probable class, lowest first (Lewis & Gale 1994)."""
    p = pool.probabilities
    return np.argsort(np.abs(2 * p - 1).mean(axis=1) if pool.multilabel else p.max(axis=1), kind="stable")


def margin(pool: Pool, count: int, rng: np.random.Generator, picked: Pool) -> np.ndarray:
    """By the difference of the two largest probabilities, smallest first (Scheffer et al. 2001)."""
    return np.argsort(margins(pool), kind="stable")


def class_margin(pool: Pool, count: int, rng: np.random.Generator, picked: Pool) -> np.ndarray:
    """By margin within each class that the model answers, the classes in turn, those with the fewest labels first.

    Margins alone ask mostly about the common classes. A class that has many labels waits until the others have as many.
    Labels are counted in `pool.counts`, picks so far by the model's answer. Multi-label images count for their rarest
    label.
    """
    answer = _answers(np.concatenate([pool.probabilities, picked.probabilities]), pool.multilabel)
    have = np.zeros(pool.probabilities.shape[1], int) if pool.counts is None else np.array(pool.counts)
    if pool.multilabel:
        frequency = answer.sum(axis=0)
        kind = np.where(answer, frequency, len(answer) + 1).argmin(axis=1)
    else:
        kind = answer[:, 0]
    have = have + np.bincount(kind[len(pool) :], minlength=len(have))
    return in_turn(kind[: len(pool)], margins(pool), np.zeros(len(have)), have)


def diverse(pool: Pool, count: int, rng: np.random.Generator, picked: Pool) -> np.ndarray:
    """By margin and distance to the picks so far: greedily the largest product of rank^4 and squared distance.

    This is k-means++ seeding without its randomness (Arthur & Vassilvitskii 2007), weighted by uncertainty.
    """
    return _spread(-margins(pool), pool, count, picked)


def class_diverse(pool: Pool, count: int, rng: np.random.Generator, picked: Pool) -> np.ndarray:
    """As `diverse`, with the place in the order of `class_margin` instead of the margin."""
    place = np.empty(len(pool))
    place[class_margin(pool, count, rng, picked)] = np.arange(len(pool))
    return _spread(-place, pool, count, picked)


def badge(pool: Pool, count: int, rng: np.random.Generator, picked: Pool) -> np.ndarray:
    """k-means++ seeding in the space of loss gradients (BADGE, Ash et al., ICLR 2020).

    The gradient of an image, with the model's own answer as its label, is the outer product of (probabilities - answer)
    and features. Its length says how unsure the model is, so what is far from all picks is unsure and different.
    Distances are computed from the two factors: the (N, K D) gradients never exist.
    """
    x, slope = unit(pool.features), _slopes(pool)
    length = np.square(slope).sum(axis=1)  # squared; features have length 1
    nearest = np.full(len(pool), np.inf)
    for row, its_slope in zip(unit(picked.features), _slopes(picked), strict=True) if len(picked) else ():
        nearest = np.minimum(nearest, _gradient_distance(x, slope, length, row, its_slope))
    chosen: list[int] = []
    while len(chosen) < min(count, len(pool)):
        weight = length if np.isinf(nearest).any() else nearest
        total = weight.sum()
        if total <= 0:  # the rest repeats what was picked
            break
        first = not chosen and not len(picked)
        best = int(np.argmax(weight)) if first else int(rng.choice(len(pool), p=weight / total))
        chosen.append(best)
        nearest = np.minimum(nearest, _gradient_distance(x, slope, length, x[best], slope[best]))
        nearest[best] = 0
    return np.array(chosen) if chosen else margin(pool, count, rng, picked)


def dropquery(pool: Pool, count: int, rng: np.random.Generator, picked: Pool) -> np.ndarray:
    """The images nearest to the centres of clusters of inconsistent answers (DropQuery, Gupta et al., TMLR 2024).

    An answer is inconsistent if it changes under most of the dropout masks on the features. These images are divided
    into as many clusters as picks are needed. With fewer of them than picks, those of smallest margin join.
    """
    head = pool.head or imitate(pool)
    answer = _answers(pool.probabilities, pool.multilabel)
    changed = np.zeros(len(pool))
    for _ in range(MASKS):
        x = pool.features * (rng.random(pool.features.shape, np.float32) >= DROPPED) / (1 - DROPPED)
        logits = x @ head.weight.T + head.bias
        changed += (_answers(probe.sigmoid(logits) if pool.multilabel else logits, pool.multilabel) != answer).any(
            axis=1
        )
    order = np.argsort(margins(pool) - (changed > MASKS / 2), kind="stable")
    candidates = order[: max(int((changed > MASKS / 2).sum()), count)]
    x = unit(pool.features[candidates])
    cluster, distance = clusters(x, min(count, len(candidates)), rng)
    return candidates[in_turn(cluster, distance, np.bincount(cluster))]


def typiclust(pool: Pool, count: int, rng: np.random.Generator, picked: Pool) -> np.ndarray:
    """The most typical image of each large cluster without a label (TypiClust, Hacohen et al., ICML 2022).

    Needs no model: the method for the cold start. Labelled images and picks so far are clustered with the others, into
    as many clusters as there will be labels, and clusters with the fewest of them come first. Typical: a small mean
    distance to the nearest neighbours in its cluster.
    """
    known = [picked.features] + ([pool.labelled] if pool.labelled is not None else [])
    known = np.concatenate(known) if sum(map(len, known)) else np.empty((0, pool.features.shape[1]))
    x = unit(np.concatenate([pool.features, known]))
    cluster, _ = clusters(x, min(len(known) + count, CLUSTERS, len(x)), rng)
    ours, theirs = cluster[: len(pool)], cluster[len(pool) :]
    size, covered = np.bincount(cluster), np.bincount(theirs, minlength=cluster.max() + 1)
    distance = np.empty(len(pool))
    for number in np.unique(ours):
        members = np.flatnonzero(ours == number)
        distance[members] = neighbour_distance(x[members])
    return in_turn(ours, distance, size, covered)


METHODS: dict[str, Callable[..., np.ndarray]] = {
    "random": random,
    "uncertainty": uncertainty,
    "margin": margin,
    "class_margin": class_margin,
    "diverse": diverse,
    "class_diverse": class_diverse,
    "badge": badge,
    "dropquery": dropquery,
    "typiclust": typiclust,
}
ALONE = ("random", "uncertainty", "margin", "class_margin")  # compare no images, so that a pool of any length will do
COLD = ("random", "typiclust")  # need no probabilities


# --- parts


def margins(pool: Pool) -> np.ndarray:
    """(N,) in 0..1, small where the model is unsure: of its two best classes, or of the least sure label."""
    p = pool.probabilities
    if pool.multilabel:
        return np.abs(2 * p - 1).min(axis=1)
    if p.shape[1] < 2:
        return np.zeros(len(p))
    two = np.partition(p, -2, axis=1)[:, -2:]
    return two[:, 1] - two[:, 0]


def ranks(values: np.ndarray) -> np.ndarray:
    """(N,) ranks in (0, 1] of `values`; equal values share the middle of their ranks, NaN counts as largest."""
    values = np.nan_to_num(values, nan=np.inf)
    ordered = np.sort(values)
    below, upto = np.searchsorted(ordered, values, "left"), np.searchsorted(ordered, values, "right")
    return (below + upto + 1) / (2 * len(values) + 1)


def unit(x: np.ndarray) -> np.ndarray:
    """(N, D) float32 rows of length 1; zeros stay zeros."""
    x = np.asarray(x, np.float32)
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def _spread(score: np.ndarray, pool: Pool, count: int, picked: Pool) -> np.ndarray:
    """`count` rows, greedily of the largest rank^4 of `score` (N,) times squared distance to the picks so far."""
    weight, x, chosen = ranks(score) ** FAVOUR, unit(pool.features), []
    nearest = np.full(len(x), 2.0)  # squared distance of unit vectors to the closest pick, at most 4
    for row in unit(picked.features):
        nearest = np.minimum(nearest, np.maximum(2 - 2 * x @ row, 0))
    left = np.ones(len(x), bool)
    while len(chosen) < min(count, len(x)):
        best = int(np.argmax(np.where(left, weight * (nearest + 1e-6), -1.0)))
        chosen.append(best)
        left[best] = False
        nearest = np.minimum(nearest, np.maximum(2 - 2 * x @ x[best], 0))
    return np.array(chosen, int)


def imitate(pool: Pool) -> probe.Probe:
    """A linear classifier of the features that answers as the model did: for models whose head is not at hand."""
    answer = _answers(pool.probabilities, pool.multilabel)
    y = answer.astype(np.float32) if pool.multilabel else answer[:, 0]
    return probe.fit(pool.features, y, pool.probabilities.shape[1])


def clusters(x: np.ndarray, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(N,) cluster of each row by k-means, numbered from 0, and (N,) its distance to that cluster's centre."""
    from sklearn.cluster import KMeans

    if x.shape[1] > PROJECTED:  # a tenth of the cost; random projections keep distances (Johnson, Lindenstrauss)
        x = x @ (rng.standard_normal((x.shape[1], PROJECTED), np.float32) / PROJECTED**0.5)
    count = min(count, len(np.unique(x, axis=0)))
    found = KMeans(count, n_init=1, max_iter=ITERATIONS, random_state=int(rng.integers(2**31)))
    distance = found.fit_transform(x)
    _, cluster = np.unique(found.labels_, return_inverse=True)
    return cluster, distance[np.arange(len(x)), found.labels_]


def in_turn(
    cluster: np.ndarray, distance: np.ndarray, size: np.ndarray, covered: np.ndarray | None = None
) -> np.ndarray:
    """All rows: the best (smallest distance) of each cluster, then the second of each, and so on.

    cluster, distance: (N,). size: (C,), large clusters come first in each turn. covered: (C,) turns that a cluster has
    had already.
    """
    turn = np.empty(len(cluster), int)
    order = np.lexsort([distance, cluster])
    starts = np.searchsorted(cluster[order], cluster[order])
    turn[order] = np.arange(len(order)) - starts
    if covered is not None:
        turn += covered[cluster]
    return np.lexsort([distance, -size[cluster], turn])


def neighbour_distance(x: np.ndarray) -> np.ndarray:
    """(N,) mean distance of each row of `x` (N, D) to its nearest NEIGHBOURS others; 0 if it is alone."""
    near = min(NEIGHBOURS, len(x) - 1)
    if near < 1:
        return np.zeros(len(x))
    square, out = np.square(x).sum(axis=1), []
    for start in range(0, len(x), BLOCK):
        part = x[start : start + BLOCK]
        apart = np.maximum(square[start : start + BLOCK, None] + square - 2 * part @ x.T, 0)
        apart[np.arange(len(part)), start + np.arange(len(part))] = 0
        out.append(np.sqrt(np.partition(apart, near, axis=1)[:, : near + 1]).sum(axis=1) / near)
    return np.concatenate(out)


def _answers(probabilities: np.ndarray, multilabel: bool) -> np.ndarray:
    """(N, 1) most probable class, or (N, K) which labels are more probable than not."""
    return probabilities > 0.5 if multilabel else probabilities.argmax(axis=1)[:, None]


def _slopes(pool: Pool) -> np.ndarray:
    """(N, K) probabilities minus the model's own answers."""
    p = np.array(pool.probabilities, np.float32)
    if pool.multilabel:
        return p - (p > 0.5)
    p[np.arange(len(p)), p.argmax(axis=1)] -= 1
    return p


def _gradient_distance(x, slope, length, row: np.ndarray, its_slope: np.ndarray) -> np.ndarray:
    """(N,) squared distances of outer products: |a|^2 + |b|^2 - 2 (a.b)(x.y) for features of length 1."""
    return np.maximum(length + np.square(its_slope).sum() - 2 * (slope @ its_slope) * (x @ row), 0)
