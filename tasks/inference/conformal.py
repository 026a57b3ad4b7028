"""Sets of plausible classes: of each class, a wanted share of the images has it in its set.

N images, K classes; probabilities (N, K), bounds (K,) in class order.

Class k is plausible when its probability reaches its bound b_k (the score of Sadinle et al. 2019, "Least ambiguous
set-valued classifiers with bounded error levels"). b_k is a rank among the probabilities that calibration images of
class k have for k: split conformal prediction within each class (Vovk 2012, "Conditional validity of inductive
conformal predictors"). So each class reaches the coverage, the rare ones too, where one bound for all reaches it on
average only. It holds for images like the calibration images, whatever the model is.

A class with fewer than 1 / (1 - coverage) - 1 images has no such rank: by the rule, it would be in every set. It gets
the lowest bound of the classes that have one, and never more than its own smallest probability. This is not proven;
on long-tailed real sets it kept the coverage with short sets (`python -m benchmarks.conformal`).

Multi-label: the same rule for each label, on the images that have it. Of them the wanted share has it in the set; no
promise is made about all labels of an image together.

The bounds are fitted on probabilities whose calibration was fitted on the same images. Strictly, that breaks the proof;
with a temperature it moves the coverage by less than a tenth of a point (`same_split_shift` of the benchmark).
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tasks.scoring.metrics import one_hot

SLACK = 1e-4  # relative: the exported model rounds differently than the bounds' fit


class Bounds(NamedTuple):
    """A probability for each class at which it is plausible."""

    values: np.ndarray  # (K,)
    own: np.ndarray  # (K,) bool: fitted on the class's own images; False: there are too few


class SetFigures(NamedTuple):
    """How good sets of plausible classes are, of N labelled images; NaN where a class has none."""

    coverage: np.ndarray  # (K,) share of the class's images that have it in their set
    length: np.ndarray  # (K,) mean number of classes in the sets of the class's images
    covered: float  # share of all (image, label) pairs
    mean_length: float
    single: float  # share of the images whose set has one class


def fit(probabilities: np.ndarray, targets: np.ndarray, coverage: float) -> Bounds:
    """Bounds of the wanted `coverage`, on calibration images. targets: (N,) class numbers or (N, K) of 0 and 1."""
    truth = one_hot(targets, probabilities.shape[1])
    mine = [np.sort(probabilities[has, k]) for k, has in enumerate(truth.T)]
    ranks = np.array([rank(len(values), coverage) for values in mine])
    own = ranks > 0
    found = np.array([values[place - 1] if place else np.inf for values, place in zip(mine, ranks, strict=True)])
    if own.all():
        return Bounds(found * (1 - SLACK), own)
    everyone = np.sort(probabilities[truth])
    together = rank(len(everyone), coverage)
    lowest = found[own].min() if own.any() else everyone[together - 1] if together else 0.0
    for k in np.flatnonzero(~own):
        found[k] = min(lowest, mine[k][0]) if len(mine[k]) else lowest
    return Bounds(found * (1 - SLACK), own)


def rank(images: int, coverage: float) -> int:
    """Which of the sorted values of `images` images is the bound, from 1; 0: there are too few for any."""
    return math.floor((1 - coverage) * (images + 1) + 1e-9)


def plausible(probabilities: np.ndarray, answered: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """(N, K) bool: the set of each image. The answer is always in it. answered: (N,) numbers or (N, K) bool."""
    return (probabilities >= bounds) | one_hot(answered, probabilities.shape[1])


def likeliest_first(names: Sequence[str], probabilities: np.ndarray, there: np.ndarray) -> tuple[str, ...]:
    """The names of one image's set, by falling probability. probabilities, there: (K,)."""
    order = np.argsort(-probabilities, kind="stable")
    return tuple(names[k] for k in order[there[order]])


def measure(sets: np.ndarray, targets: np.ndarray) -> SetFigures:
    """Coverage and length of `sets` (N, K) bool on N > 0 images."""
    truth = one_hot(targets, sets.shape[1])
    length, images = sets.sum(axis=1), truth.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        coverage = (sets & truth).sum(axis=0) / images
        by_class = (truth * length[:, None]).sum(axis=0) / images
        covered = float((sets & truth).sum() / truth.sum())
    return SetFigures(coverage, by_class, covered, float(length.mean()), float((length == 1).mean()))
