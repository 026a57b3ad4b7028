"""A coarse answer where the fine one is unsure: the group of classes that holds enough probability.

N images, K classes, G groups; probabilities (N, K). Only multi-class models have coarse answers.
"""

from collections.abc import Mapping, Sequence

import numpy as np

LEAST = 20  # unsure calibration images from which the threshold is fitted
DEFAULT = 0.9  # threshold with fewer: the probabilities are calibrated
LOWEST = 0.5  # below, another answer is likelier


def membership(groups: Mapping[str, Sequence[str]], classes: Sequence[str]) -> np.ndarray:
    """(G, K) bool: which classes are in each group."""
    return np.array([[name in children for name in classes] for children in groups.values()], bool)


def likeliest(probabilities: np.ndarray, members: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(number (N,), probability (N,)) of each image's likeliest group. members: (G, K) bool, G > 0."""
    of_group = probabilities @ members.T
    best = of_group.argmax(axis=1)
    return best, np.take_along_axis(of_group, best[:, None], axis=1)[:, 0]


def fit_threshold(
    probabilities: np.ndarray, targets: np.ndarray, given: np.ndarray, sure: np.ndarray, members: np.ndarray
) -> float:
    """The lowest threshold at which coarse answers to unsure images are right as often as sure fine answers.

    targets, given: (N,) class numbers, of the labels and of the fine answers; sure: (N,) bool. Above 1: coarse answers
    are never right that often.
    """
    unsure = np.flatnonzero(~sure)
    if len(unsure) < LEAST:
        return DEFAULT
    wanted = (given == targets)[sure].mean() if sure.any() else DEFAULT
    group, value = likeliest(probabilities[unsure], members)
    right = members[group, targets[unsure]]
    order = np.argsort(-value, kind="stable")
    share = np.cumsum(right[order]) / np.arange(1, len(order) + 1)
    value = value[order]
    last_of_equal = np.append(value[:-1] > value[1:], True)
    enough = np.flatnonzero((share >= wanted) & last_of_equal & (value >= LOWEST))
    return float(value[enough[-1]]) if len(enough) else 2.0


def answers(
    probabilities: np.ndarray,
    sure: np.ndarray,
    groups: Mapping[str, Sequence[str]],
    classes: Sequence[str],
    bound: float,
) -> list[str | None]:
    """(N,) the group that answers an unsure image; None where the fine answer is sure or no group is likely enough."""
    if not groups:
        return [None] * len(probabilities)
    names = list(groups)
    best, value = likeliest(probabilities, membership(groups, classes))
    given = ~sure & (value >= bound)
    return [names[number] if use else None for number, use in zip(best, given, strict=True)]
