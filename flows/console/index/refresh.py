"""One refresh of the index: windows, data/, what models and people say, then the production log."""

import functools
import logging
import sqlite3
from collections.abc import Callable
from pathlib import Path

from flows.console.index.data_rows import counted, fill_issues, fill_labels, fill_predictions, fill_shards, fill_splits
from flows.console.index.database import meta, set_meta
from flows.console.index.log_rows import fill_answers, fill_late_labels
from flows.console.index.opinions import find_source, ood_threshold, read_opinions
from flows.console.index.windows import fill_windows
from flows.publishing.history import open_project
from monitoring.journal import Journal
from monitoring.log.production_log import open_log
from tasks.common.errors import EvergreenError
from tasks.common.params import Params
from tasks.labels.taxonomy import UNCHANGED, read_taxonomy
from tasks.releases.store import Releases

PROBLEM = "problem: "  # begins the names of what could not be read, in the table `meta`

logger = logging.getLogger("evergreen.console")


def refresh_all(db: sqlite3.Connection, root: Path, late: Callable[[], bool]) -> bool:
    """Bring the index up to the records; False if `late()` said stop before the end.

    A part whose records cannot be read (a damaged shard, a store that does not answer) keeps what it has; the others go
    on.
    """
    params, releases = open_project(root)
    log = open_log(root, params)
    there = (root / "data" / "dataset.json").is_file()
    steps: dict[str, Callable[[], bool | None]] = {
        "windows": lambda: fill_windows(db, Journal(log.store), late),
        "data/": lambda: fill_shards(db, root, late),
        "splits of data/": lambda: fill_splits(db, root) if there else None,
        "labels of data/": lambda: _labels(db, root, params) if there else None,
        "predictions": lambda: _predictions(db, root, params, releases) if there else None,
        "production log": lambda: fill_answers(db, log, functools.partial(ood_threshold, releases), late),
        "late labels": lambda: fill_late_labels(db, log, read_taxonomy(root / "data") if there else UNCHANGED),
    }
    complete = True
    for name, step in steps.items():
        try:
            complete &= step() is not False
            _note(db, name, "")
        except (EvergreenError, OSError, ValueError) as error:
            _note(db, name, str(error))
            complete = False
        if late():
            return False
    if complete and meta(db, "complete") != "yes":
        set_meta(db, "complete", "yes")
    return complete


def problems(db: sqlite3.Connection) -> dict[str, str]:
    """What could not be read at the last refresh -> why."""
    rows = db.execute("SELECT name, value FROM meta WHERE name LIKE ? AND value <> ''", (f"{PROBLEM}%",))
    return {name.removeprefix(PROBLEM): why for name, why in rows}


def _note(db: sqlite3.Connection, name: str, why: str) -> None:
    """Keep why `name` cannot be read, and say it once."""
    if meta(db, PROBLEM + name) != why:
        set_meta(db, PROBLEM + name, why)
        if why:
            logger.warning("the console shows %s as it was: %s", name, why)


def _labels(db: sqlite3.Connection, root: Path, params: Params) -> None:
    now = counted(root, params)
    fill_labels(db, root, params, now)
    fill_issues(db, root, now)


def _predictions(db: sqlite3.Connection, root: Path, params: Params, releases: Releases) -> None:
    if (source := find_source(root, releases, meta(db, "predictions"))) is not None:
        classes, found = read_opinions(source.read(), params.data.task)
        fill_predictions(db, source.key, source.version, classes, found)
