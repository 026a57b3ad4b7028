"""All runs of this project in one list, newest first, in words for people.

At work, ended, failed, killed and cancelled ones.
Records of ended runs come from the release store, of unfinished ones from this checkout (flows.repo.progress). A run
id begins with its time, so a page is cut from the sorted ids and only its own records are read.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flows.publishing import outcomes
from flows.repo import workspace
from flows.repo.progress import Step, for_record, last_lines, read_progress, read_unfinished
from tasks.common.paths import state_dir
from tasks.releases.store import Releases
from tasks.stages.runner import STAGES

WORDS = {
    "running": "running",
    **outcomes.WORDS,
    "failed": "failed",
    "killed": "killed",
    "cancelled": "cancelled",
}
BY_HAND = "started by hand"  # the reason of a person who gave none
MOST = 50
SCANNED = 500  # records that are read for one page of one outcome


@dataclass(frozen=True)
class RunRow:
    """One run; times in UTC."""

    id: str
    outcome: str  # a key of WORDS
    sentence: str
    reason: str
    by: str
    began: datetime | None
    ended: datetime | None
    version: str | None = None
    steps: list[Step] = field(default_factory=list)
    flow_run: str | None = None
    bundle: str | None = None
    log: list[str] = field(default_factory=list)

    @property
    def words(self) -> str:
        return WORDS.get(self.outcome, self.outcome)

    @property
    def why(self) -> str:
        """Why it was started, and by whom if a person started it by hand."""
        if self.reason in ("", BY_HAND):
            return f"by {self.by}, by hand" if self.by else "by hand"
        return self.reason

    @property
    def seconds(self) -> float | None:
        """How long it took, or has taken so far."""
        if self.began is None:
            return None
        end = self.ended or (datetime.now(UTC) if self.outcome == "running" else None)
        return max(0.0, (end - self.began).total_seconds()) if end else None

    def as_json(self) -> dict[str, Any]:
        times = {name: at.isoformat() if (at := getattr(self, name)) else None for name in ("began", "ended")}
        found = asdict(self) | times | {"words": self.words, "seconds": self.seconds}
        return {name: value for name, value in found.items() if name != "log"}


@dataclass(frozen=True)
class Page:
    """Some runs, and the id after which the next page begins; None: that was all."""

    rows: list[RunRow]
    after: str | None = None


def list_runs(
    root: Path,
    releases: Releases,
    *,
    most: int = MOST,
    after: str | None = None,
    outcome: str | None = None,
    read: Callable[[str], dict[str, Any] | None] | None = None,
) -> Page:
    """The newest `most` runs, of one outcome if it is given, that started before run `after`.

    Of a rare outcome a page may hold fewer, and more may follow: SCANNED records are read for one page.
    read: reads the record of an ended run; default: from the store.
    """
    rows = []
    for count, row in enumerate(_rows(root, releases, after, read or releases.run), 1):
        if outcome and row.outcome != outcome:
            if count >= SCANNED and most < SCANNED:  # the next page goes on from here
                return Page(rows, row.id)
            continue
        if len(rows) == most:
            return Page(rows, rows[-1].id)
        rows.append(row)
    return Page(rows)


def one_run(root: Path, releases: Releases, run_id: str) -> RunRow | None:
    """The run `run_id`; None if there is none."""
    alive = set(workspace.alive_runs(root))
    return _row(root, run_id, alive, releases.run)


def newest_ended(root: Path, releases: Releases) -> RunRow | None:
    """The newest run that is not at work; None if none has ended."""
    return next((row for row in _rows(root, releases, None, releases.run) if row.outcome != "running"), None)


def _rows(root: Path, releases: Releases, after: str | None, read: Callable) -> Iterator[RunRow]:
    alive = set(workspace.alive_runs(root))
    for run_id in sorted(alive | ended_ids(root, releases), reverse=True):
        if (after is None or run_id < after) and (row := _row(root, run_id, alive, read)) is not None:
            yield row


def ended_ids(root: Path, releases: Releases) -> set[str]:
    """Ids of all runs that ended in any way, and of dead ones whose workspace is still there."""
    found = {name.removesuffix(".json") for name in _recorded(releases) if name.endswith(".json")}
    found |= {file.stem for file in (state_dir(root) / "unfinished").glob("*.json")}
    folder = state_dir(root) / "runs"
    return found | ({one.name for one in folder.iterdir() if one.is_dir()} if folder.is_dir() else set())


def _recorded(releases: Releases) -> Iterator[str]:
    """Names under runs/ in the release store."""
    folder = getattr(releases.store, "root", None)
    if isinstance(folder, Path):  # thousands of runs, each with a folder of its own: one look instead of thousands
        with suppress(FileNotFoundError):
            yield from os.listdir(folder / "runs")
        return
    for key in releases.store.list("runs/"):
        if key.count("/") == 1:
            yield key.removeprefix("runs/")


def _row(root: Path, run_id: str, alive: set[str], read: Callable[[str], dict[str, Any] | None]) -> RunRow | None:
    folder = state_dir(root) / "runs" / run_id
    if "/" in run_id or run_id.startswith("."):
        return None
    began = _began(run_id)
    if run_id in alive:
        started, found = workspace.read_started(folder) or {}, read_progress(folder)
        return RunRow(
            run_id,
            "running",
            _now_doing(found.steps if found else []),
            started.get("reason", ""),
            started.get("by", ""),
            began,
            None,
            steps=found.steps if found else [],
            flow_run=found.flow_run if found else None,
            log=last_lines(folder),
        )
    about = read(run_id) or read_unfinished(root, run_id)
    if about is None:
        if not folder.is_dir():
            return None
        started = workspace.read_started(folder) or {}  # it was killed, and no run has tidied up since
        about = started | {"outcome": "killed", "sentence": workspace.KILLED}
        about |= for_record(folder) | {"log": last_lines(folder)}
    return RunRow(
        run_id,
        about["outcome"],
        about["sentence"],
        about.get("reason") or "",
        about.get("by") or "",
        began,
        _time(about.get("at")),
        about.get("version"),
        [Step(**step) for step in about.get("steps") or []],
        about.get("flow_run"),
        about.get("bundle"),
        about.get("log") or [],
    )


def _now_doing(steps: list[Step]) -> str:
    done = sum(step.state == "done" for step in steps if step.name in STAGES)
    doing = next((step.name for step in steps if step.state == "running"), None)
    return f"{doing}; {done} of {len(STAGES)} stages done" if doing else "starting"


def _began(run_id: str) -> datetime | None:
    """When a run started: its id begins with it (flows.repo.workspace.new_run_id)."""
    try:
        return datetime.strptime(run_id.partition("-")[0], "%Y%m%dT%H%M%S%f").replace(tzinfo=UTC)
    except ValueError:
        return None


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
