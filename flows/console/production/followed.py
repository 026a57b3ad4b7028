"""What followed an alarm: labels that were asked for, runs that it started, versions they made."""

import functools
import json
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from flows.repo.workspace import alive_runs
from flows.runs.overview import RunRow, ended_ids, one_run
from monitoring.journal import named_window
from monitoring.log.production_log import Log
from tasks.releases.store import Releases

RUNS = 200  # that began after a window: so many records are looked at
SHOWN = 6  # runs


@dataclass(frozen=True)
class Followed:
    """The chain that begins with an alarm."""

    asked: int = 0  # images that were put into the queue because of it
    labelled: int = 0  # of those
    runs: list[RunRow] = field(default_factory=list)  # oldest first
    learnt: RunRow | None = None  # the first run after the labels, if no run names the window


class Asked:
    """Which images were asked for because of which window; each file of the queue is read once."""

    def __init__(self):
        self._known: dict[str, dict[str, list[str]]] = {}

    def of(self, log: Log, windows: Collection[str]) -> set[str]:
        """Ids of the images that were asked for because of `windows`."""
        keys = list(log.store.list("queue/"))
        known = {key: self._known.get(key) or _read(log, key) for key in keys}
        self._known = known
        return {name for found in known.values() for window in windows for name in found.get(window, ())}


@functools.cache
def asked_of(root: Path) -> Asked:
    """The images that were asked for in the project at `root`; every request shares what it read."""
    return Asked()


def _read(log: Log, key: str) -> dict[str, list[str]]:
    content = log.store.read(key)
    found: dict[str, list[str]] = {}
    try:
        for entry in json.loads(content[0]) if content else []:
            if named := named_window(entry["because"]):
                found.setdefault(named, []).append(entry["id"])
    except (ValueError, KeyError, TypeError):  # the queue itself says so
        pass
    return found


def followed(
    root: Path,
    releases: Releases,
    log: Log,
    windows: Collection[str],
    start: datetime,
    asked: Asked,
) -> Followed:
    """What followed the incident of `windows`, which began at `start`."""
    images = asked.of(log, windows)
    given = log.labels(since=start) if images else None
    times = (
        {name: at for name, at in zip(given["id"].to_pylist(), given["at"].to_pylist(), strict=True) if name in images}
        if given is not None
        else {}
    )
    after = sorted(
        name for name in ended_ids(root, releases) | set(alive_runs(root)) if name >= f"{start:%Y%m%dT%H%M%S}"
    )
    rows = [row for name in after[:RUNS] if (row := one_run(root, releases, name)) is not None]
    named = [row for row in rows if named_window(row.reason) in windows]
    learnt = None
    if times and not named:
        last = max(times.values())
        learnt = next((row for row in rows if row.began and row.began >= last), None)
    return Followed(len(images), len(times), named[-SHOWN:], learnt)
