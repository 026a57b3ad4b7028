"""What to say about classes that are very rare, or that were rare where they were collected.

Measures return numbers, `sentences` says them. N samples, K classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

EXTREME = 100  # the most common class to the rarest one: above this, a classifier alone seldom finds the rarest
RARE = 100  # training images: only a class with fewer may be rare because of how it was collected
CHANCE = 0.01  # so seldom would as many images lie in one place if the class were spread as all others are


@dataclass(frozen=True)
class OnePlace:
    """A rare class all of whose training images come from one source or one day, unlike other classes' images."""

    name: str
    images: int
    what: str  # "source" or "day"
    value: str
    share: float  # of all other training images that come from there


def imbalance(counts: np.ndarray) -> tuple[float, int]:
    """(the most common class's images to the rarest one's, the rarest's number) of classes with images; counts (K,)."""
    there = np.flatnonzero(counts)
    rarest = there[np.argmin(counts[there])]
    return float(counts.max() / counts[rarest]), int(rarest)


def in_one_place(y: np.ndarray, classes: Sequence[str], places: Mapping[str, Sequence[str | None]]) -> list[OnePlace]:
    """Rare classes that lie in one place; y: (N,) class numbers, places: "source" and "day" -> (N,) values or None.

    A class counts if chance would seldom put its images into that place, given the other classes' share there.
    """
    found = []
    for what, values in places.items():
        known = np.array([value is not None for value in values])
        values = np.array([value or "" for value in values], object)
        for number, name in enumerate(classes):
            own, others = known & (y == number), known & (y != number)
            if not 1 < own.sum() < RARE or own.sum() < (y == number).sum() or not others.any():
                continue
            here = set(values[own])
            if len(here) > 1:
                continue
            (value,) = here
            share = float((values[others] == value).mean())
            if share ** int(own.sum()) < CHANCE:
                found.append(OnePlace(name, int(own.sum()), what, str(value), share))
    return found


def sentences(ratio: float, rarest: str, images: int, places: Sequence[OnePlace]) -> list[str]:
    """Advice in words, the extreme imbalance first."""
    said = []
    if ratio > EXTREME:
        said.append(
            f"The most common class has {ratio:.0f} times the training images of {rarest!r} ({images}). Above "
            f"{EXTREME}:1 a classifier alone seldom finds the rarest class. What helps, in this order: more images of "
            "it, changes for rare classes only (train_backbone.rare_augment), synthetic images, and an anomaly score "
            "beside the classifier."
        )
    for one in places:
        where = f"one {one.what}, {one.value}"
        said.append(
            f"All {one.images} training images of {one.name!r} come from {where}, which has {100 * one.share:.0f}% of "
            "the other classes' images. It may be rare because of where it was looked for: collect it from other "
            f"{one.what}s before you change the training; until then the model may know the {one.what}, not the class."
        )
    return said
