"""How far a run is: what its process writes while it works, for people who watch from elsewhere.

    .evergreen/runs/<run id>/progress.json    its steps, replaced at every change
    .evergreen/runs/<run id>/log.txt          what its steps printed
    .evergreen/runs/<run id>/cancel.json      {by, why, at}: a person asked the run to end
    .evergreen/unfinished/<run id>.json       a run that failed, was cancelled or was killed; outlives its workspace

A run that ends otherwise is recorded in the release store, with the same steps (flows.publishing.run_records).
"""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from io import TextIOBase
from pathlib import Path
from typing import Any, Literal

from tasks.common.errors import refuse_newer
from tasks.common.files import write_json
from tasks.common.paths import state_dir
from tasks.common.private import open_private
from tasks.common.rebuildable import expect, read_rebuildable

SCHEMA = 1  # of progress.json
KEPT = 500  # records of unfinished runs
LAST_LINES = 60  # of the log, kept with an unfinished run
LOG_BYTES = 4 << 20  # a log stops to grow there
State = Literal["waiting", "running", "done", "failed"]


@dataclass
class Step:
    """One step of a run: its times in UTC, how it ended ("ran", "restored", "unchanged", ...) and what it found."""

    name: str
    state: State = "waiting"
    began: str | None = None
    seconds: float | None = None
    outcome: str = ""
    found: str = ""


@dataclass
class Progress:
    """The steps of one run, kept in the run's folder."""

    folder: Path
    steps: list[Step]
    pid: int = field(default_factory=os.getpid)
    began: str = field(default_factory=lambda: _now())
    flow_run: str | None = None  # its id in Prefect

    def save(self) -> None:
        """Replace progress.json."""
        about = {"schema": SCHEMA, "pid": self.pid, "began": self.began, "flow_run": self.flow_run}
        write_json(self.folder / "progress.json", about | {"steps": [asdict(step) for step in self.steps]})

    def step(self, name: str) -> Step:
        """The step called `name`, added if it was not planned."""
        found = next((step for step in self.steps if step.name == name), None)
        if found is None:
            self.steps.append(found := Step(name))
        return found

    @contextmanager
    def running(self, name: str) -> Iterator[Step]:
        """Record that `name` runs during the block, and how long it took; the block sets its outcome."""
        step, start = self.step(name), time.monotonic()
        step.state, step.began, step.seconds = "running", _now(), None
        self.save()
        try:
            yield step
            step.state = "done"
        except BaseException:
            step.state = "failed"
            raise
        finally:
            step.seconds = round(time.monotonic() - start, 1)
            self.save()

    @contextmanager
    def printing(self) -> Iterator[None]:
        """Keep what the block prints in log.txt; only errors reach the terminal too."""
        with (
            open(self.folder / "log.txt", "a", encoding="utf-8", opener=open_private) as log,
            redirect_stdout(_Log(log)),
            redirect_stderr(_Log(log, sys.stderr)),
        ):
            yield


class _Log(TextIOBase):
    """Writes whole lines into `log`, and everything to `terminal`."""

    def __init__(self, log: TextIOBase, terminal: TextIOBase | None = None):
        self.log, self.terminal, self.rest = log, terminal, ""

    def write(self, text: str) -> int:
        if self.terminal is not None:
            self.terminal.write(text)
        *lines, self.rest = (self.rest + text).split("\n")
        shown = [line for line in lines if "\x1b" not in line and "\r" not in line]  # without progress bars
        if shown and self.log.tell() < LOG_BYTES:
            self.log.write("".join(f"{line}\n" for line in shown))
            self.log.flush()
        return len(text)

    def flush(self) -> None:
        if self.terminal is not None:
            self.terminal.flush()

    def isatty(self) -> bool:
        return self.terminal is not None and self.terminal.isatty()

    def fileno(self) -> int:
        return (self.terminal or self.log).fileno()


def read_progress(folder: Path) -> Progress | None:
    """How far the run in `folder` is; None if it has not said so yet, or the file is damaged."""

    def accept(about: dict) -> Progress:
        refuse_newer(about.get("schema"), SCHEMA, str(folder / "progress.json"))
        steps = [Step(**step) for step in expect(about["steps"], list)]
        return Progress(folder, steps, expect(about["pid"], int), expect(about["began"], str), about["flow_run"])

    return read_rebuildable(folder / "progress.json", accept, "the run writes it again at its next step")


def for_record(folder: Path) -> dict[str, Any]:
    """What the record of the run in `folder` keeps of its progress: the steps that began, its id in Prefect."""
    found = read_progress(folder)
    steps = [asdict(step) for step in found.steps if step.state != "waiting"] if found else []
    return {"steps": steps, "flow_run": found.flow_run if found else None}


def last_lines(folder: Path, most: int = LAST_LINES) -> list[str]:
    """The last lines of the log of the run in `folder`."""
    try:
        with open(folder / "log.txt", "rb") as log:
            log.seek(max(0, os.fstat(log.fileno()).st_size - 64 * 1024))
            return log.read().decode("utf-8", "replace").splitlines()[-most:]
    except OSError:
        return []


def record_unfinished(root: Path, folder: Path, outcome: str, sentence: str) -> None:
    """Keep that the run in `folder` failed, was cancelled or was killed. The first record of a run stays."""
    file = _unfinished(root) / f"{folder.name}.json"
    if file.exists():
        return
    started = read_rebuildable(folder / "started.json", lambda about: expect(about, dict)) or {}
    about = {name: started.get(name) for name in ("key", "reason", "by")}
    about |= {"outcome": outcome, "sentence": sentence, "at": _now(), "log": last_lines(folder)}
    write_json(file, about | for_record(folder))
    for old in sorted(file.parent.glob("*.json"))[:-KEPT]:
        old.unlink(missing_ok=True)


def read_unfinished(root: Path, run_id: str) -> dict[str, Any] | None:
    """The record of the unfinished run `run_id`; None if there is none."""

    def accept(about: dict) -> dict:
        for name in ("outcome", "sentence", "at"):
            expect(about[name], str)
        return about

    return read_rebuildable(_unfinished(root) / f"{run_id}.json", accept, "the run is not listed")


def request_cancel(folder: Path, by: str, why: str) -> None:
    """Note who wants the run in `folder` to end."""
    write_json(folder / "cancel.json", {"by": by, "why": why, "at": _now()})


def cancel_sentence(folder: Path) -> str | None:
    """Who cancelled the run in `folder` and why; None if no person did."""
    about = read_rebuildable(folder / "cancel.json", lambda about: expect(about, dict), "the run counts as killed")
    if about is None:
        return None
    why = f": {about['why']}" if about.get("why") else ""
    return f"cancelled by {about.get('by', '?')}{why}"


def _unfinished(root: Path) -> Path:
    return state_dir(root) / "unfinished"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
