"""Measures challenger against champion on each set, slice, class and corruption.

Nothing is judged here. The names are those of the verdict's checks: "hard.balanced_accuracy",
"slice:light=dim.balanced_accuracy", "class.Bag.recall", "few_shot.recall", "corruptions.blur.accuracy". Unusable is
raised where the policy asks for something that the evidence lacks.
"""

import math
from collections.abc import Collection
from dataclasses import replace
from statistics import NormalDist

import numpy as np

from tasks.common.params import GateParams
from tasks.common.text import join_names
from tasks.gate.evidence import Evidence, Unusable
from tasks.gate.paired import Difference, compare, compare_hits
from tasks.scoring.groups import group_numbers
from tasks.scoring.intervals import two_sided
from tasks.scoring.metrics import one_hot


def better(evidence: Evidence, classes: list[str], policy: GateParams) -> dict[str, Difference]:
    """Name -> difference of the policy's metric, for the sets on one of which the challenger must be better."""
    if not policy.superior_on:
        raise Unusable(
            "policy", "gate.superior_on is empty: name a set on which a challenger can show that it is better"
        )
    shown = [name for name in policy.superior_on if name in evidence.sets]
    if unknown := [name for name in policy.superior_on if name not in evidence.sets and (name != "hard" or not shown)]:
        raise Unusable("policy", f"gate.superior_on names {unknown}, there are {join_names(evidence.sets)}")
    masks: dict[str, np.ndarray] = {}
    for name in shown:  # "test" and "newest" are one comparison where the newest batch has all test images
        if not any((evidence.sets[name] == mask).all() for mask in masks.values()):
            masks[name] = evidence.sets[name]
    return {name: _compare(evidence, mask, len(classes), policy) for name, mask in masks.items()}


def without_unfair(evidence: Evidence, unfair: Collection[str]) -> Evidence:
    """`evidence` whose hard set lacks the images `unfair`, ids; without any that is left there is no hard set."""
    if not unfair or "hard" not in evidence.sets:
        return evidence
    fair = evidence.sets["hard"] & ~np.isin(evidence.ids, sorted(unfair))
    rest = {name: mask for name, mask in evidence.sets.items() if name != "hard"}
    return replace(evidence, sets=rest | ({"hard": fair} if fair.any() else {}))


def others(
    evidence: Evidence, classes: list[str], policy: GateParams, train_counts: dict[str, int]
) -> dict[str, tuple[Difference, float]]:
    """Name -> (difference, margin) of everything else that is compared: sets, slices, classes.

    Slices of few images are pooled, and so are classes of few test or few training images.
    """
    test, found = evidence.sets["test"], {}
    small = np.zeros_like(test)
    for name, mask in evidence.sets.items():
        if name in policy.superior_on or name == "newest":
            continue
        if name.startswith("slice:") and mask.sum() < policy.min_class_support:
            small |= mask
        elif name == "test" or (mask != test).any():
            found[f"{name}.{policy.metric}"] = _compare(evidence, mask, len(classes), policy), policy.margin
    if "hard" in evidence.sets:  # "no image lost" has no margin
        hard = evidence.sets["hard"]
        new, old = (right(evidence.targets, one)[hard] for one in (evidence.new, evidence.old))
        found["hard.images"] = _hits(new, old, group_numbers(evidence.groups[hard]), policy), 0.0
    if small.any():
        found[f"small_slices.{policy.metric}"] = _compare(evidence, small, len(classes), policy), policy.margin

    if missing := [name for name in classes if name not in train_counts]:
        raise Unusable("train_counts", f"the number of training images is missing for {join_names(missing)}")
    truth = one_hot(evidence.targets[test], len(classes))
    new, old = (one_hot(answer[test], len(classes)) for answer in (evidence.new, evidence.old))
    groups = group_numbers(evidence.groups[test])
    pool: list[int] = []
    for k, name in enumerate(classes):
        here = truth[:, k]
        if here.sum() < policy.min_class_support or train_counts[name] < policy.few_shot:
            pool.append(k)
        else:
            difference = _hits(new[here, k], old[here, k], groups[here], policy)
            found[f"class.{name}.recall"] = difference, policy.class_margin
    pooled = truth[:, pool]
    if pooled.any():
        of_image = np.repeat(groups, pooled.sum(axis=1))
        difference = _hits(new[:, pool][pooled], old[:, pool][pooled], of_image, policy)
        found["few_shot.recall"] = difference, policy.class_margin
    return found


def corruptions(metrics: dict, champion: dict, policy: GateParams) -> dict[str, tuple[Difference, float]]:
    """Name -> (difference, margin) of the accuracy under each corruption that both models were tried on.

    Only shares are known, not which images each model got wrong. So the test is one of unpaired shares, which errs on
    the side of "equal".
    """
    mine, theirs = metrics.get("corruptions"), champion.get("corruptions")
    found = {}
    if not (isinstance(mine, dict) and isinstance(theirs, dict)):
        return found
    for name in sorted(mine.keys() & theirs.keys()):
        try:
            new, old, n = mine[name]["accuracy"], theirs[name]["accuracy"], min(mine[name]["n"], theirs[name]["n"])
            spread = math.sqrt((new * (1 - new) + old * (1 - old)) / n + 1e-12)
        except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
            raise Unusable(f"corruptions.{name}", f"expected accuracy and n of both models, found {error!r}") from None
        half = two_sided(policy.confidence) * spread
        worse = NormalDist().cdf((new - old) / spread)
        difference = Difference(n, new, old, new - old - half, new - old + half, 1 - worse, worse)
        found[f"corruptions.{name}.accuracy"] = difference, policy.margin
    return found


def _hits(new: np.ndarray, old: np.ndarray, groups: np.ndarray, policy: GateParams) -> Difference:
    return compare_hits(new, old, policy.confidence, groups, policy.resamples)


def right(targets: np.ndarray, answers: np.ndarray) -> np.ndarray:
    """(N,) bool: the images whose whole answer is right."""
    same = targets == answers
    return same if same.ndim == 1 else same.all(axis=1)


def _compare(evidence: Evidence, mask: np.ndarray, classes: int, policy: GateParams) -> Difference:
    return compare(
        policy.metric,
        evidence.targets[mask],
        evidence.new[mask],
        evidence.old[mask],
        classes,
        confidence=policy.confidence,
        resamples=policy.resamples,
        few=policy.min_class_support,
        groups=group_numbers(evidence.groups[mask]),
    )
