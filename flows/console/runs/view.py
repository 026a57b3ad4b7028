"""What the pages of runs show: rows, a run's steps with estimates."""

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.console.shell.console import Console
from flows.console.shell.facts import recent
from flows.repo.progress import Step
from flows.runs import pace
from flows.runs.overview import RunRow
from flows.runs.whats_new import WhatsNew, whats_new
from monitoring.journal import named_window
from tasks.releases.store import Releases

STATES = {"unchanged": "reused", "restored": "restored", "ran": "ran"}  # how a stage came to its result
SETTLED = ("promoted", "rejected", "refused", "unchanged")  # only a person's decision changes such a record
KEPT = 5000
NEW_SECONDS = 2.0
BATCH = re.compile(r"\bbatch (b-[0-9a-f]{12})\b")


@dataclass(frozen=True)
class StepRow:
    """One step of a run."""

    name: str
    state: str  # waiting, running, done, failed
    words: str
    seconds: float | None
    expected: float | None  # as it last took
    found: str
    step: Step


def step_rows(steps: list[Step], known: dict[str, float]) -> list[StepRow]:
    """The steps for the table. known: stage -> seconds that it last took."""
    words = {"waiting": "waits", "running": "running", "failed": "failed"}
    return [
        StepRow(
            step.name,
            step.state,
            words.get(step.state) or STATES.get(step.outcome, step.outcome) or "done",
            step.seconds,
            known.get(step.name),
            step.found,
            step,
        )
        for step in steps
    ]


def share_done(rows: list[StepRow], spent: Callable[[Step], float]) -> float | None:
    """How far a run is, from 0 to 1, by how long its stages last took; None if that is not known.

    spent: seconds since a running step began.
    """
    total = sum(row.expected or 0 for row in rows)
    if not total:
        return None
    done = sum(row.expected or 0 for row in rows if row.state == "done")
    done += sum(min(row.expected or 0, spent(row.step)) for row in rows if row.state == "running")
    return min(1.0, done / total)


def expected_seconds(root: Path) -> dict[str, float]:
    """Stage -> seconds that it last took in this checkout."""
    return pace.known_seconds(root)


def links_of(row: RunRow) -> list[tuple[str, str]]:
    """(text, address) of the pages that a run leads to."""
    found = []
    if row.outcome in ("promoted", "held", "rejected"):
        found.append(("Its release page", f"/releases/{row.id}"))
    if row.outcome == "refused":
        named = BATCH.search(row.sentence)
        found.append(
            ("The refused batch", f"/data/{named[1]}") if named else ("Why the data was refused", "/data/table")
        )
    if window := named_window(row.reason):
        found.append(("The window that started it", f"/production/{window}"))
    return found


def would_do(console: Console) -> WhatsNew:
    """What a retraining started now would do, looked at every few seconds: it asks git and counts labels."""
    root = console.root
    return recent(("would do", root), lambda: whats_new(root, console.releases(), console.log()), NEW_SECONDS)


class Records:
    """Reads records of runs from the release store, each settled one once."""

    def __init__(self):
        self._kept: dict[str, dict[str, Any]] = {}

    def reader(self, releases: Releases) -> Callable[[str], dict[str, Any] | None]:
        """A function from a run's id to its record."""

        def read(run_id: str) -> dict[str, Any] | None:
            if (found := self._kept.get(run_id)) is None and (found := releases.run(run_id)) is not None:
                found = {name: value for name, value in found.items() if name != "verdict"}
                if found["outcome"] in SETTLED and len(self._kept) < KEPT:
                    self._kept[run_id] = found
            return found

        return read


@functools.cache
def records_of(root: Path) -> Records:
    """The records of the project at `root`; every request shares what was read."""
    return Records()
