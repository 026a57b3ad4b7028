"""Choose the images that a report shows: unfamiliar ones of the window, typical reference ones."""

import numpy as np

from monitoring.drift.arrays import SampleArrays
from monitoring.drift.reference import Reference

MOST = 50  # ids of each kind


def choose_moved(window: SampleArrays, scores: np.ndarray | None) -> list[str]:
    """Ids of the window's samples that are least like the reference, worst first.

    They are ordered by the mean rank of the domain classifier's score (N,) and of the out-of-distribution score. A row
    without one of them is ranked by the other.
    """
    ranks = [_rank(values) for values in (scores, window.numbers["ood"]) if values is not None]
    both = np.stack(ranks)
    counted = np.isfinite(both).sum(axis=0)
    mean = np.where(counted > 0, np.nansum(both, axis=0) / np.maximum(counted, 1), -1.0)
    return window.ids[np.argsort(-mean, kind="stable")[:MOST]].tolist()


def choose_typical(reference: Reference) -> list[str]:
    """Ids of the reference samples closest to the centre of their predicted class.

    The classes take turns.
    """
    features, predicted = reference.arrays.features, reference.arrays.predicted
    known = np.isfinite(features).all(axis=1)
    turn, distance = np.full(len(reference), np.inf), np.full(len(reference), np.inf)
    for k in range(predicted.shape[1]):
        members = np.flatnonzero(predicted[:, k] & known)
        if len(members):
            gap = np.linalg.norm(features[members] - features[members].mean(axis=0), axis=1)
            order = members[np.argsort(gap, kind="stable")]
            turn[order], distance[order] = np.arange(len(order)), np.sort(gap)
    chosen = np.lexsort((distance, turn))
    return reference.arrays.ids[chosen[np.isfinite(turn[chosen])][:MOST]].tolist()


def _rank(values: np.ndarray) -> np.ndarray:
    """(N,) ranks scaled to 0..1, high for high values; NaN stays NaN."""
    out = np.full(len(values), np.nan)
    known = np.flatnonzero(np.isfinite(values))
    out[known[np.argsort(values[known], kind="stable")]] = np.arange(1, len(known) + 1) / max(len(known), 1)
    return out
