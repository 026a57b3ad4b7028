"""Cross-validation folds that keep groups and near-duplicates together, with every class in training.

N samples, K classes, F folds.
"""

import numpy as np


def assign_folds(members: np.ndarray, groups: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """Fold of each sample, (N,) int.

    `members` (N, K) bool says which classes a sample has; `groups` (N,) are group names: samples of one group share
    a fold, and each class is spread as evenly as that allows. A class that is in one fold only (because it
    has a single group) would be missing from training while that fold is held out: its samples are dealt one by one.
    """
    rng = np.random.default_rng(seed)
    _, group, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    fold = np.full(len(group), -1)
    load = np.zeros((folds, members.shape[1]))
    weight = 1 / np.maximum(members.sum(axis=0), 1) ** 2  # a rare class weighs as much as a common one

    order = rng.permutation(np.flatnonzero(sizes > 1))
    order = order[np.argsort(-sizes[order], kind="stable")]
    rows_of = np.split(np.argsort(group, kind="stable"), np.cumsum(sizes)[:-1])
    for number in order:
        counts = members[rows_of[number]].sum(axis=0)
        best = np.argmin(_loads(load, counts, weight))
        fold[rows_of[number]] = best
        load[best] += counts
    rows = np.flatnonzero(fold < 0)
    patterns, pattern = np.unique(members[rows], axis=0, return_inverse=True)
    for number in range(
        len(patterns)
    ):  # samples without a group: deal those of equal labels in turn, emptiest fold first
        here = rng.permutation(rows[pattern.ravel() == number])
        turn = np.argsort(_loads(load, patterns[number], weight), kind="stable")
        fold[here] = turn[np.arange(len(here)) % folds]
        load += np.bincount(fold[here], minlength=folds)[:, None] * patterns[number]
    for number in range(members.shape[1]):
        rows = np.flatnonzero(members[:, number])
        if len(rows) and (fold[rows] == fold[rows[0]]).all():
            fold[rng.permutation(rows)] = np.arange(len(rows)) % folds
    return fold


def _loads(load: np.ndarray, counts: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """(F,) load of each fold by the classes in `counts`; the load of all classes breaks ties."""
    return load @ (counts * weight) + 1e-9 * load.sum(axis=1)


def training_masks(fold: np.ndarray, clusters: np.ndarray, members: np.ndarray, folds: int) -> np.ndarray:
    """(F, N) bool: which samples the probe of each fold may train on.

    Not those of its fold, nor near-duplicates of them (`clusters`, (N,) names), which would give the answer away.
    Exception: a class that would have no training sample left keeps its near-duplicates.
    """
    _, cluster = np.unique(clusters, return_inverse=True)
    held = np.zeros((cluster.max() + 1, folds), bool)
    held[cluster, fold] = True
    masks = ~held[cluster].T
    for number in range(folds):
        absent = ~members[masks[number]].any(axis=0)
        masks[number] |= members[:, absent].any(axis=1) & (fold != number)
    return masks
