"""Compares the figures of `gate.floors` with the champion's: there, nothing may be lost.

A loss that luck gives at most alpha of the time in all comparisons is a finding (reject); one that it gives at most 5 %
of the time, for all floors together, is a suspicion (hold). There is no margin. N images, K classes.
"""

from collections.abc import Callable, Mapping

import numpy as np

from tasks.common.floors import Floor
from tasks.common.params import GateParams
from tasks.gate.evidence import Evidence, Unusable
from tasks.gate.floor_figures import hits, prices, relevant
from tasks.gate.floors import worst_place
from tasks.gate.paired import Difference, compare, compare_hits
from tasks.scoring.agreement import image_costs
from tasks.scoring.groups import group_numbers
from tasks.scoring.metrics import one_hot

Sums = Callable[[np.ndarray], np.ndarray]


def against_champion(
    floors: list[Floor], evidence: Evidence, classes: list[str], policy: GateParams, costs: Mapping[str, float]
) -> dict[str, Difference]:
    """Name of the check -> the challenger's figure minus the champion's on the same images, for each floor.

    The worst place is that of each model by itself for the figure above, and here the challenger's. Left out: single
    images, which the floor itself decides, and what no image shows.
    """
    found = {}
    for floor in floors:
        if floor.image is not None or (floor.class_ is not None and floor.class_ not in classes):
            continue
        try:
            place, _, _ = worst_place(floor, evidence, classes, policy, costs)
        except Unusable:  # the floor itself says so
            continue
        difference = _difference(floor, evidence, classes, policy, costs, evidence.sets[place])
        if difference is not None:
            found[f"{floor.code}.kept"] = difference
    return found


def _difference(
    floor: Floor,
    evidence: Evidence,
    classes: list[str],
    policy: GateParams,
    costs: Mapping[str, float],
    mask: np.ndarray,
) -> Difference | None:
    """The challenger's figure minus the champion's on the same images; of costs, what is saved. None: no images."""
    if floor.figure == "precision":
        return _precision_change(floor, evidence, classes, policy, mask)
    here = relevant(floor, evidence.new, evidence, classes, mask)
    if not here.any():
        return None
    groups = group_numbers(evidence.groups[here])
    if floor.figure in ("recall", "accuracy"):
        new, old = (hits(floor, one, evidence, classes, here) for one in (evidence.new, evidence.old))
        return compare_hits(new, old, policy.confidence, groups, policy.resamples)
    targets, new, old = evidence.targets[here], evidence.new[here], evidence.old[here]
    if floor.figure == "cost":
        spent = (image_costs(targets, answers, prices(classes, costs)) for answers in (new, old))
        return _saved(*spent, groups, policy)
    options = {"resamples": policy.resamples, "few": policy.min_class_support, "confidence": policy.confidence}
    return compare(floor.figure, targets, new, old, len(classes), groups=groups, **options)


def _precision_change(
    floor: Floor, evidence: Evidence, classes: list[str], policy: GateParams, mask: np.ndarray
) -> Difference | None:
    """Precision of both models on the images that either answered with the class, by resampling these images."""
    k = classes.index(floor.class_)
    truth, new, old = (
        one_hot(part[mask], len(classes))[:, k] for part in (evidence.targets, evidence.new, evidence.old)
    )
    if not (new.any() and old.any()):
        return None
    either = new | old
    cells = np.stack([new & truth, new & ~truth, old & truth, old & ~truth], axis=1)[either].astype(np.int64)
    return _resampled(
        cells,
        group_numbers(evidence.groups[mask][either]),
        lambda c: c[..., 0] / np.maximum(c[..., 0] + c[..., 1], 1),
        lambda c: c[..., 2] / np.maximum(c[..., 2] + c[..., 3], 1),
        lambda c: c[..., [2, 3, 0, 1]],
        policy,
    )


def _saved(new: np.ndarray, old: np.ndarray, groups: np.ndarray, policy: GateParams) -> Difference:
    """What the challenger saves an image, as a difference that is better when higher."""
    cells = np.stack([-new, -old, np.ones_like(new)], axis=1)
    return _resampled(
        cells,
        groups,
        lambda c: c[..., 0] / c[..., 2],
        lambda c: c[..., 1] / c[..., 2],
        lambda c: c[..., [1, 0, 2]],
        policy,
    )


def _resampled(
    cells: np.ndarray, groups: np.ndarray, first: Sums, second: Sums, swapped: Sums, policy: GateParams
) -> Difference:
    """Difference of two figures of summed `cells` (N, C): interval by bootstrap, chance by random exchange.

    Images of one group, (N,) numbers, are drawn and exchanged together. first, second: (..., C) sums -> the
    challenger's and the champion's figure; swapped: cells of the models exchanged.
    """
    rng = np.random.default_rng(0)
    units = np.zeros((groups.max() + 1, cells.shape[1]), cells.dtype)
    np.add.at(units, groups, cells)
    unique, number = np.unique(units, axis=0, return_counts=True)
    drawn = rng.multinomial(number.sum(), number / number.sum(), size=policy.resamples) @ unique
    differences = first(drawn) - second(drawn)
    tail = (1 - policy.confidence) / 2
    low, high = np.quantile(differences, [tail, 1 - tail])
    other = swapped(unique)
    moved = rng.binomial(number, 0.5, size=(policy.resamples, len(number)))
    total = (number - moved) @ unique + moved @ other
    chance, whole = first(total) - second(total), number @ unique
    found = float(first(whole) - second(whole))
    return Difference(
        n=len(cells),
        new=float(first(whole)),
        old=float(second(whole)),
        low=float(low),
        high=float(high),
        p_better=float((1 + (chance >= found - 1e-12).sum()) / (policy.resamples + 1)),
        p_worse=float((1 + (chance <= found + 1e-12).sum()) / (policy.resamples + 1)),
    )
