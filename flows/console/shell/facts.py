"""What the frame of every page says: the project, what is live, what runs."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from flows.console.shell.console import Console
from flows.repo.workspace import alive_runs
from tasks.common.errors import EvergreenError
from tasks.releases.pause import Pause, pause_of

SECONDS = 2.0  # between looks into the release store, which may be far away
MOST = 500  # answers that are kept: keys come from addresses of pages

T = TypeVar("T")
_lock = threading.Lock()
_known: dict[tuple, tuple[float, Any]] = {}


@dataclass(frozen=True)
class Project:
    """The frame's facts."""

    name: str
    live: str | None  # version
    provisional: str | None  # why, if it is
    runs: tuple[str, ...]  # alive on this machine
    pause: Pause | None = None  # no automatic action while it holds
    problem: str = ""  # why the release store says nothing


def project_of(console: Console) -> Project:
    """The facts, at most `SECONDS` old."""
    return recent(("project", console.root), lambda: _look(console))


def recent(key: tuple, look: Callable[[], T], seconds: float = SECONDS) -> T:
    """What `look` returned for `key`, at most `seconds` ago."""
    with _lock:
        found = _known.get(key)
    if found is None or time.monotonic() - found[0] > seconds:
        found = (time.monotonic(), look())
        with _lock:
            _known.pop(key, None)
            _known[key] = found
            while len(_known) > MOST:
                _known.pop(next(iter(_known)))
    return found[1]


def forget(*key: object) -> None:
    """Look again next time: something of `key` has just changed."""
    with _lock:
        _known.pop(key, None)


def _look(console: Console) -> Project:
    runs = tuple(alive_runs(console.root))
    try:
        name, releases = console.params().bundle.name, console.releases()
        live = releases.live()
        why = releases.provisional(live.bundle) if live else None
        return Project(name, live.version if live else None, why, runs, pause_of(releases))
    except EvergreenError as error:  # the pages are there all the same
        return Project(console.root.name, None, None, runs, problem=str(error))
