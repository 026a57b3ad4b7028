"""Which images to show: those of the window that are least like the reference, and typical ones of the reference."""

import numpy as np

from monitoring.drift.arrays import Side
from monitoring.drift.reference import Reference

MOST = 50


def moved(side: Side, scores: np.ndarray | None) -> list[str]:
    """Ids of the window's rows, worst first, by the mean rank of the domain classifier's score (N,) and of the
    out-of-distribution score; a row that lacks one is ranked by the other."""
    ranks = [_rank(values) for values in (scores, side.numbers["ood"]) if values is not None]
    both = np.stack(ranks)
    counted = np.isfinite(both).sum(axis=0)
    mean = np.where(counted > 0, np.nansum(both, axis=0) / np.maximum(counted, 1), -1.0)
    return side.ids[np.argsort(-mean, kind="stable")[:MOST]].tolist()


def typical(reference: Reference) -> list[str]:
    """Ids of the reference's rows nearest to the middle of their predicted class, one class after the other."""
    features, predicted = reference.side.features, reference.side.predicted
    known = np.isfinite(features).all(axis=1)
    turn, distance = np.full(len(reference), np.inf), np.full(len(reference), np.inf)
    for k in range(predicted.shape[1]):
        members = np.flatnonzero(predicted[:, k] & known)
        if len(members):
            gap = np.linalg.norm(features[members] - features[members].mean(axis=0), axis=1)
            order = members[np.argsort(gap, kind="stable")]
            turn[order], distance[order] = np.arange(len(order)), np.sort(gap)
    chosen = np.lexsort((distance, turn))
    return reference.side.ids[chosen[np.isfinite(turn[chosen])][:MOST]].tolist()


def _rank(values: np.ndarray) -> np.ndarray:
    """(N,) in 0 .. 1, high for high values; NaN stays NaN."""
    out = np.full(len(values), np.nan)
    known = np.flatnonzero(np.isfinite(values))
    out[known[np.argsort(values[known], kind="stable")]] = np.arange(1, len(known) + 1) / max(len(known), 1)
    return out
