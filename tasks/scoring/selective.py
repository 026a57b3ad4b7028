"""What a model answers alone and what goes to people: accuracy against the share that it answers.

The images are sorted by confidence: the model answers the surest ones alone, people see the rest (El-Yaniv & Wiener
2010, "On the foundations of noise-free selective classification"). N images, M distinct confidences.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tasks.scoring.groups import group_numbers

RESAMPLES = 200
CONFIDENCE = 0.95  # of the intervals
ROUNDING = 1e-9  # an accuracy of 0.99 may come out as this much less


class Curve(NamedTuple):
    """Every way to divide the images between model and people, by falling confidence."""

    bound: np.ndarray  # (M,) the least confidence of an answer given alone
    share: np.ndarray  # (M,) of the images that the model answers alone
    accuracy: np.ndarray  # (M,) of these answers


class ToPeople(NamedTuple):
    """The share of the images that people must see, for the rest to be as right as wanted."""

    share: float
    low: float  # of the 95 % interval
    high: float
    bound: float | None  # people see what is less confident than this; None: people see everything


def curve(right: np.ndarray, confidence: np.ndarray) -> Curve:
    """The curve of N > 0 images; equally confident ones are one point. right: (N,) bool."""
    order = np.argsort(-confidence, kind="stable")
    return _curve(confidence[order], right[order], np.ones(len(right)))


def _curve(ranked: np.ndarray, right: np.ndarray, weight: np.ndarray) -> Curve:
    """The curve of images by falling confidence `ranked`; weight: (N,), how often each counts."""
    last = np.append(ranked[1:] != ranked[:-1], True)
    answered, hits = np.cumsum(weight)[last], np.cumsum(weight * right)[last]
    there = answered > 0
    answered = answered[there]
    return Curve(ranked[last][there], answered / answered[-1], hits[there] / answered)


def area_over_curve(right: np.ndarray, confidence: np.ndarray) -> float:
    """AURC: the mean share of mistakes over all shares answered alone, less is better (Geifman et al. 2019).

    Equally confident images count as if in random order: mistakes are spread evenly over them.
    """
    found = curve(right, confidence)
    n = len(right)
    places = np.arange(1, n + 1) / n
    mistakes = np.interp(places, np.append(0.0, found.share), np.append(0.0, found.share * (1 - found.accuracy)))
    return float((mistakes / places).mean())


def to_people(
    right: np.ndarray, confidence: np.ndarray, wanted: Sequence[float], groups: Sequence[str | None] | None = None
) -> list[ToPeople]:
    """The least share for people at each `wanted` accuracy, with its bootstrap interval over groups ((N,) names)."""
    order = np.argsort(-confidence, kind="stable")
    ranked, right = confidence[order], right[order]
    group = group_numbers([None] * len(right) if groups is None else groups)[order]
    rng, number = np.random.default_rng(0), int(group.max()) + 1
    drawn = np.empty((RESAMPLES, len(wanted)))
    for row in drawn:
        times = np.bincount(rng.integers(number, size=number), minlength=number)[group]
        found = _curve(ranked, right, times)
        row[:] = [_share(found, one)[0] for one in wanted]
    low, high = np.quantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], axis=0).tolist()
    whole = [_share(_curve(ranked, right, np.ones(len(right))), one) for one in wanted]
    return [ToPeople(share, *edges, bound) for (share, bound), *edges in zip(whole, low, high, strict=True)]


def _share(found: Curve, wanted: float) -> tuple[float, float | None]:
    """(share for people, bound) at one `wanted` accuracy."""
    enough = np.flatnonzero(found.accuracy >= wanted - ROUNDING)
    return (float(1 - found.share[enough[-1]]), float(found.bound[enough[-1]])) if len(enough) else (1.0, None)
