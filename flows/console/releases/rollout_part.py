"""The rollout on the page of its run: steps, both models side by side, what the monitor would do.

Read again at most every few seconds: measuring reads the log since the rollout began.
"""

from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from flows.console.shell.console import Console
from flows.console.shell.facts import recent
from flows.rollout.evidence import Arm, Evidence, Labelled
from flows.rollout.status import Status, status
from monitoring.log.production_log import open_log
from monitoring.log.shadow import open_shadow_log
from monitoring.pages import plots
from tasks.common.errors import EvergreenError
from tasks.releases.rollout import Rollout, active, rollouts
from tasks.releases.store import Releases
from tasks.scoring.intervals import two_sided, wilson

SECONDS = 20.0
Z = two_sided(0.95)
CLASSES = 30  # rows of a table, the largest difference first
MATRIX = 12  # classes of an agreement matrix
ROWS = 20_000  # answers of a shadow that the matrix reads; a random sample of more
ORDERS = {  # order -> (button, what it does, title of the job)
    "next": ("Next share", "The challenger gets the next share of the traffic now.", "Going to the next share"),
    "promote": ("Promote now", "The challenger goes live before its steps are over; the floors hold.", "Promoting"),
    "stop": ("Stop the rollout", "The live model answers everything again; the run waits.", "Stopping the rollout"),
}


@dataclass(frozen=True)
class RolloutPart:
    """What the section shows."""

    rollout: Rollout
    earlier: list[Rollout]  # other rollouts of the run, newest first
    arms: list[dict[str, Any]] = field(default_factory=list)  # the live model and the challenger, in this step
    classes: list[dict[str, Any]] = field(default_factory=list)  # shares of the answers
    labels: list[dict[str, Any]] = field(default_factory=list)  # how often each is right: in all, then by class
    agreement: dict[str, Any] | None = None  # of a shadow
    checks: tuple = ()
    would: str = ""  # what the monitor would do now
    outcome: str = ""
    problem: str = ""  # why nothing could be measured
    paused: str = ""

    @property
    def orders(self) -> list[tuple[str, str, str]]:
        """(order, button, what it does) of what a person may order now."""
        if self.rollout.ended is not None:
            return []
        names = [name for name in ORDERS if name != "next" or not self.rollout.last]
        return [(name, *ORDERS[name][:2]) for name in names]


def going_on(releases: Releases) -> tuple[Rollout | None, str]:
    """(the rollout that goes on, why that cannot be read)."""
    try:
        return active(releases), ""
    except EvergreenError as error:
        return None, str(error)


def rollout_part(console: Console, run_id: str) -> tuple[RolloutPart | None, str]:
    """(the newest rollout of the run as its page shows it, why it cannot be read); None: it never had one."""
    try:
        own = [one for one in rollouts(console.releases()) if one.run_id == run_id][::-1]
    except EvergreenError as error:
        return None, str(error)
    if not own:
        return None, ""
    first, earlier = own[0], own[1:]
    if first.ended is not None:
        return RolloutPart(first, earlier, checks=first.ended.checks), ""
    key = ("rollout", console.root, first.id, first.step)
    return recent(key, lambda: _measured(console, first, earlier), SECONDS), ""


def _measured(console: Console, rollout: Rollout, earlier: list[Rollout]) -> RolloutPart:
    try:
        found = status(console.root)
    except (EvergreenError, OSError) as error:
        return RolloutPart(rollout, earlier, problem=str(error))
    if found.rollout is None or found.rollout.id != rollout.id or found.evidence is None or found.decision is None:
        return RolloutPart(found.rollout or rollout, earlier)
    return _shown(console, found, found.rollout, earlier)


def _shown(console: Console, found: Status, rollout: Rollout, earlier: list[Rollout]) -> RolloutPart:
    evidence, decision = found.evidence, found.decision
    step = evidence.steps[-1]
    sides = [(rollout.champion, step.live), (rollout.version, step.new)]
    return RolloutPart(
        rollout,
        earlier,
        arms=[_arm(version, one) for version, one in sides],
        classes=_classes(step.live, step.new),
        labels=_labels(evidence),
        agreement=_agreement(console, rollout) if rollout.strategy == "shadow" else None,
        checks=decision.checks,
        would=decision.sentence,
        outcome=decision.outcome,
        paused=found.paused or "",
    )


def _arm(version: str, arm: Arm) -> dict[str, Any]:
    return {
        "version": version,
        "requests": arm.n,
        "review": _share(arm.review, arm.n),
        "confidence": arm.confidence,
        "latency_ms": arm.latency_ms,
    }


def _classes(live: Arm, new: Arm) -> list[dict[str, Any]]:
    """Each class's share of the answers of both models, the largest difference first."""
    names = sorted(live.answers.keys() | new.answers.keys())
    rows = [
        {
            "name": name,
            "live": _share(live.answers.get(name, 0), live.n),
            "new": _share(new.answers.get(name, 0), new.n),
        }
        for name in names
    ]
    return sorted(rows, key=lambda row: -abs(row["new"]["value"] - row["live"]["value"]))[:CLASSES]


def _labels(evidence: Evidence) -> list[dict[str, Any]]:
    """How often both were right on labelled answers, in all and by true class."""

    def row(name: str, one: Labelled) -> dict[str, Any]:
        return {"name": name, "live": _share(one.live_right, one.live), "new": _share(one.new_right, one.new)}

    if not evidence.labelled.new + evidence.labelled.live:
        return []
    by_class = [row(name, one) for name, one in evidence.by_class.items()]
    by_class.sort(key=lambda one: one["new"]["value"] - one["live"]["value"])
    return [row("", evidence.labelled), *by_class[:CLASSES]]


def _share(count: int, of: int) -> dict[str, Any]:
    """A share with its 95 % interval (Wilson 1927) and its picture."""
    low, high = wilson(count, of, Z)
    value = count / of if of else 0.0
    return {"count": count, "of": of, "value": value, "plot": plots.interval(value, low, high) if of else ""}


def _agreement(console: Console, rollout: Rollout) -> dict[str, Any] | None:
    """How often both models gave each pair of answers to the same images; None without any.

    matrix: rows of the live model's answer with the counts of the challenger's; of more classes than MATRIX, only the
    pairs that differ are listed.
    """
    params, now = console.params(), datetime.now(UTC)
    columns, span = ["id", "prediction"], (rollout.since, now)
    unseen, _, _ = open_shadow_log(console.root, params).window(*span, columns, ROWS, bundle=rollout.bundle)
    new = {row["id"]: row["prediction"] for row in unseen.to_pylist() if row["prediction"] is not None}
    given = open_log(console.root, params).find(new, *span, columns, rollout.champion_bundle)
    pairs: Counter[tuple[str, str]] = Counter()
    for row in given.to_pylist():
        if row["prediction"] is not None:
            pairs[_text(row["prediction"]), _text(new[row["id"]])] += 1
    if not (total := sum(pairs.values())):
        return None
    names = sorted({name for pair in pairs for name in pair})
    changed = [(live, other, count) for (live, other), count in pairs.most_common() if live != other]
    return {
        "of": total,
        "same": _share(total - sum(count for _, _, count in changed), total),
        "classes": names if len(names) <= MATRIX else [],
        "matrix": [(live, [pairs[live, other] for other in names]) for live in names] if len(names) <= MATRIX else [],
        "changed": changed[:CLASSES],
    }


def _text(prediction: str | list[str]) -> str:
    return prediction if isinstance(prediction, str) else " + ".join(sorted(prediction)) or "(none)"
