"""Measures the figure of a floor for one model, its interval, and the images that would prove it.

N images, K classes. A share whose images are all groups of their own has the exact binomial interval. Images of one
group are one observation: then, and for mean recalls and costs, the interval is that of tasks.scoring.skill. Macro F1
is bootstrapped by groups; its interval is at least as wide as that of mean recall.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tasks.common.floors import Floor
from tasks.common.params import GateParams
from tasks.gate.evidence import Evidence
from tasks.gate.paired import compare
from tasks.gate.power import images_by_width, images_to_prove
from tasks.scoring.agreement import image_costs
from tasks.scoring.groups import group_numbers
from tasks.scoring.metrics import one_hot
from tasks.scoring.skill import exact_interval, measure_skill, share_interval


@dataclass(frozen=True)
class Figure:
    """A figure of one model on `images`, with one-sided limits."""

    value: float
    low: float
    high: float
    images: int
    needed: int | None  # images on which the bound would be shown; None: no number shows it, or it was not asked


def relevant(floor: Floor, answers: np.ndarray, evidence: Evidence, classes: list[str], mask: np.ndarray) -> np.ndarray:
    """(N,) bool: the images of `mask` that the figure is about: of recall those of the class, of precision those
    that were answered with it."""
    if floor.class_ is None:
        return mask
    k = classes.index(floor.class_)
    of = answers if floor.figure == "precision" else evidence.targets
    return mask & one_hot(of, len(classes))[:, k]


def measure(
    floor: Floor,
    answers: np.ndarray,
    evidence: Evidence,
    classes: list[str],
    mask: np.ndarray,
    policy: GateParams,
    costs: Mapping[str, float],
    places: int = 1,
) -> Figure | None:
    """The figure of `answers` (as evidence.new) on the images of `mask` (N,); None where it has no images.

    places: of how many places this is the worst one. The upper limit, by which a model is shown to be below its
    floor, then allows for the choice; to be above it, each place must be.
    """
    here = relevant(floor, answers, evidence, classes, mask)
    images = int(here.sum())
    if not images:
        return None
    alpha = (1 - policy.confidence) / 2
    targets, given, number = evidence.targets[here], answers[here], group_numbers(evidence.groups[here].tolist())
    if floor.figure in ("recall", "precision", "accuracy"):
        right = hits(floor, answers, evidence, classes, here)
        return _share(right, number, floor.bound, alpha, places)
    if floor.figure == "balanced_accuracy":
        groups = evidence.groups[here].tolist()
        sides = [measure_skill(targets, given, len(classes), groups, 1 - 2 * alpha / n) for n in (1, places)]
        value, low, high = sides[0].value, sides[0].low, sides[1].high
    elif floor.figure == "macro_f1":
        wrong = (targets + 1) % len(classes) if targets.ndim == 1 else ~targets.astype(bool)
        options = {"resamples": policy.resamples, "few": policy.min_class_support, "groups": number}
        names, levels = evidence.groups[here].tolist(), [1 - 2 * alpha / n for n in (1, places)]
        sides = [
            compare("macro_f1", targets, given, wrong, len(classes), confidence=level, **options) for level in levels
        ]
        recalls = [measure_skill(targets, given, len(classes), names, level) for level in levels]
        value = sides[0].new  # a bootstrap of answers that are all right has no spread: mean recall's is the least
        low = max(0.0, min(sides[0].low, value - recalls[0].value + recalls[0].low))
        high = min(1.0, max(sides[1].high, value - recalls[1].value + recalls[1].high))
    else:
        spent = image_costs(targets, given, prices(classes, costs))
        return _cost(spent, number, max([1.0, *costs.values()]), floor.bound, alpha, places)
    return Figure(value, low, high, images, images_by_width(images, value - low, value - floor.bound, alpha))


def hits(floor: Floor, answers: np.ndarray, evidence: Evidence, classes: list[str], here: np.ndarray) -> np.ndarray:
    """(M,) bool: which of the M images of `here` count as right for recall, precision or accuracy."""
    truth, said = (one_hot(part[here], len(classes)) for part in (evidence.targets, answers))
    if floor.class_ is None:
        return (truth == said).all(axis=1)
    k = classes.index(floor.class_)
    return (truth if floor.figure == "precision" else said)[:, k]


def prices(classes: list[str], costs: Mapping[str, float]) -> np.ndarray:
    """(K,) what missing each class costs: 1 where `costs` does not say."""
    return np.array([costs.get(name, 1.0) for name in classes])


def _share(right: np.ndarray, number: np.ndarray, bound: float, alpha: float, places: int) -> Figure:
    n, count = len(right), int(right.sum())
    value = count / n
    if number.max() + 1 == n:
        low, high = exact_interval(count, n, alpha)[0], exact_interval(count, n, alpha / places)[1]
        return Figure(value, low, high, n, images_to_prove(value, bound, alpha))
    weight = np.full((n, 1), 1 / n)
    low, high = (
        share_interval(weight, right[:, None], number, value, 1 - 2 * alpha / among)[side]
        for side, among in enumerate((1, places))
    )
    return Figure(value, low, high, n, images_by_width(n, value - low, value - bound, alpha))


def _cost(spent: np.ndarray, number: np.ndarray, highest: float, bound: float, alpha: float, places: int) -> Figure:
    """The mean of what each image cost, `spent` (N,), of at most `highest` or the largest found."""
    n, most = len(spent), max(highest, float(spent.max()))
    value, saved = float(spent.mean()), 1 - spent / most
    weight = np.full((n, 1), 1 / n)
    least, most_saved = (
        share_interval(weight, saved[:, None], number, float(saved.mean()), 1 - 2 * alpha / among)[side]
        for side, among in enumerate((1, places))
    )
    low, high = most * (1 - most_saved), most * (1 - least)
    return Figure(value, low, high, n, images_by_width(n, high - value, bound - value, alpha))
