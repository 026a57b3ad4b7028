"""Decides what is done about each suspicious training label: repaired, or queued for a person.

N samples, K classes.
"""

from dataclasses import dataclass

import numpy as np

from tasks.common.params import CleanParams
from tasks.scoring.targets import class_counts
from tasks.stages.clean.judge import Judged
from tasks.stages.clean.proof import Gain

ACTIONS = ("keep", "relabel", "drop", "queue")
MAJORITY = 2  # a class with more than this times as many images is the majority: rare images look like it by chance
AMBIGUOUS = 0.1  # confusion of two classes by the probe itself from which their labels are ambiguous, not wrong


@dataclass(frozen=True)
class Decision:
    """`actions` and `reasons`, (N,) text: only queued samples have a reason, else ""."""

    actions: np.ndarray
    reasons: np.ndarray

    @property
    def changed(self) -> np.ndarray:
        """(N,) bool: relabelled or dropped."""
        return (self.actions == "relabel") | (self.actions == "drop")


@dataclass(frozen=True)
class Verdict:
    """Whether labels may be changed without a person, and why not."""

    allowed: bool
    why: str  # "" if allowed


def decide(judged: Judged, y: np.ndarray, classes: int, policy: CleanParams) -> Decision:
    """What to do about each training label `y` (as in `encode`) if repairs are allowed.

    Only noise that the labels bear out repairs a label. These are queued instead, and the reason says why: classes of
    at most `rare_class` samples neither lose nor gain one; a class loses none to a class MAJORITY times as large;
    classes that the probe itself confuses are ambiguous, not wrong; of any class at most `max_changed_share` is
    relabelled or dropped, the most suspicious first.
    """
    counts = class_counts(y, classes)
    budget = np.floor(counts * policy.max_changed_share).astype(int)
    rare = counts <= policy.rare_class
    actions = np.full(len(y), "keep", dtype="<U7")
    reasons = np.full(len(y), "", dtype="<U12")
    found, proven = judged.suspicion, judged.proven
    rows = np.flatnonzero(found.is_issue)
    for row in rows[np.argsort(found.quality[rows], kind="stable")]:
        given, other = _classes_of(y[row]), _classes_of(found.predicted[row])
        action = "queue"
        named = np.array_equal(found.predicted[row], proven.predicted[row]) and given != other and other
        if named and proven.confidence[row] >= policy.relabel_confidence:
            action = "relabel"
        elif proven.quality[row] <= policy.drop_quality:
            action = "drop"
        touched = given | other if action == "relabel" else given
        if any(rare[k] for k in touched):
            action, reasons[row] = "queue", "rare_class"
        elif action == "queue":
            reasons[row] = "unsure"
        elif judged.confusion[row] >= AMBIGUOUS:
            action, reasons[row] = "queue", "ambiguous"
        elif any(counts[j] > MAJORITY * counts[k] for k in given - other for j in other - given):
            action, reasons[row] = "queue", "larger_class"
        elif any(budget[k] == 0 for k in given):
            action, reasons[row] = "queue", "cap"
        else:
            for k in given:
                budget[k] -= 1
        actions[row] = action
    return Decision(actions, reasons)


def _classes_of(label: np.ndarray) -> set[int]:
    """Class numbers of one label."""
    return {int(label)} if np.ndim(label) == 0 else set(np.flatnonzero(label).tolist())


def judge_gain(gain: Gain | None) -> Verdict:
    """Repairs are allowed if the interval of their gain on held-out labels lies above 0."""
    if gain is None:
        return Verdict(False, "no group of images could be held out to measure a gain")
    if gain.low > 0:
        return Verdict(True, "")
    return Verdict(False, "cleaning did not show a gain on held-out labels")


def queue_all(decision: Decision) -> Decision:
    """`decision` with every repair left to a person."""
    return Decision(
        np.where(decision.changed, "queue", decision.actions), np.where(decision.changed, "unproven", decision.reasons)
    )
