"""The resolution schedule: early epochs see smaller images, so that they cost less.

Progressive resizing (Howard 2018), progressive learning (Tan and Le 2021, "EfficientNetV2").
"""

from collections.abc import Sequence

STEP = 16  # sides are multiples of it, for networks that halve the image several times
SMALLEST = 32


def epoch_side(schedule: Sequence[float], side: int, done: int, epochs: int) -> int:
    """The side of training images after `done` of `epochs`, of which each share in `schedule` has an equal part."""
    if not schedule:
        return side
    share = schedule[min(len(schedule) - 1, done * len(schedule) // epochs)]
    return min(side, max(SMALLEST, STEP * round(side * share / STEP))) if share < 1 else side
