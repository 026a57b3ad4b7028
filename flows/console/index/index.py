"""The index: images of data/, answers of production and windows, to filter, count and page."""

import functools
import json
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TypeVar

import numpy as np

from flows.console.index import windows
from flows.console.index.columns import Columns, Filters, load_columns
from flows.console.index.database import Database, meta
from flows.console.index.facets import FACETS
from flows.console.index.refresh import problems, refresh_all
from flows.console.index.windows import ALL, WindowFilter, WindowOutline, WindowRow, moment

T = TypeVar("T")
EVERY = 5.0  # seconds between two refreshes in the background
IDLE = 20  # a look at many files, or far away, is followed by a pause so many times as long
BUDGET = 2.0  # seconds that a request gives a refresh
BLOCK = 500  # values of one SQL statement
SELECT = (
    'SELECT i.row, i.id, i.logged, f.name, i.place, i.at, i.key, i.path, i."group", i.given, i.confidence, i.ood, '
    + ", ".join(f"i.f_{name}" for name in FACETS)
    + " FROM images i JOIN files f ON f.number = i.file"
)

logger = logging.getLogger("evergreen.console")


@dataclass(frozen=True)
class ImageRow:
    """One image of data/, or one answer of the production log."""

    row: int
    id: str
    logged: bool  # an answer of the production log
    file: str  # shard, or key in the log
    place: int  # row in the file
    at: datetime | None
    key: str | None
    path: str | None
    group: str | None
    given: str | list[str] | None  # the label as first given; of data/
    confidence: float | None
    ood: float | None
    facets: dict[str, str | None]  # by name

    def __getattr__(self, name: str) -> str | None:
        """A facet by its name: `row.predicted`."""
        if name in FACETS:
            return self.facets[name]
        raise AttributeError(name)


class Index:
    """Reads the index; `refresh` brings it up to the records. Threads may share one."""

    def __init__(self, root: Path):
        self.root = root
        self._database = Database(root)
        self._columns: Columns | None = None
        self._loading = threading.Lock()
        self._stamp: tuple = ()  # of data/ when everything of it that can be read had been read
        self._kept_fresh = False  # a thread does it
        self._looked = float("-inf")  # when this process last brought the index up to the records

    # --- freshness

    def ready(self, budget: float = BUDGET) -> "Index":
        """The index, after a short refresh if data/ changed or none was made lately, as without a background thread."""
        stamp = _stamp(self.root)
        old = not self._kept_fresh and time.monotonic() - self._looked > 3 * EVERY
        if stamp != self._stamp or old:
            self.refresh(budget)
        return self

    def refresh(self, budget: float | None = None) -> bool:
        """Read what is new, for at most about `budget` seconds; False if something is left, or another does it."""
        end = None if budget is None else time.monotonic() + budget
        late = (lambda: False) if end is None else (lambda: time.monotonic() > end)

        def work() -> bool | None:
            with self._database.writing() as db:
                return None if db is None else refresh_all(db, self.root, late)

        stamp = _stamp(self.root)
        complete = self._safely(work)
        self._looked = time.monotonic()
        if complete or (complete is False and not late()):  # a damaged file is tried again later, not by each request
            self._stamp = stamp
        return bool(complete)

    def is_complete(self) -> bool:
        """Whether a refresh has ever read everything."""
        return self._safely(lambda: meta(self._database.connection(), "complete") == "yes")

    def problems(self) -> dict[str, str]:
        """What could not be read at the last refresh -> why."""
        return self._safely(lambda: problems(self._database.connection()))

    def keep_fresh(self, stop: threading.Event, every: float = EVERY) -> None:
        """Refresh until `stop` is set: the work of the web server's background thread."""
        self._kept_fresh = True
        while not stop.is_set():
            start = time.monotonic()
            try:
                self.refresh()
                self.columns()  # what requests need is in memory before they ask
            except Exception as error:
                logger.warning("the console's index could not be refreshed: %s: %s", type(error).__name__, error)
            stop.wait(max(every, IDLE * (time.monotonic() - start)))
        self._kept_fresh = False
        self._database.close()

    # --- images

    def columns(self) -> Columns:
        """The rows' facets and sort keys as of now."""

        def work() -> Columns:
            with self._loading:
                self._columns = load_columns(self._database.connection(), self._columns)
                return self._columns

        return self._safely(work)

    def counts(self, filters: Filters) -> tuple[int, dict[str, list[tuple[str | None, int]]]]:
        """See Columns.counts."""
        return self.columns().counts(filters)

    def page(self, filters: Filters, sort: str = "newest", after: int | None = None, most: int = 50) -> list[ImageRow]:
        """At most `most` rows that fit `filters` (facets.FACETS), in the order `sort` (facets.SORTS).

        after: the number of the last row of the page before.
        """
        return self.rows(self.columns().page(filters, sort, after, most))

    def rows(self, numbers: Sequence[int]) -> list[ImageRow]:
        """The rows with these numbers, in this order; those that are gone are left out."""
        found: dict[int, ImageRow] = {}
        for start in range(0, len(numbers), BLOCK):
            part = numbers[start : start + BLOCK]
            found |= {row.row: row for row in self._images(f"i.row IN ({', '.join('?' * len(part))})", part)}
        return [found[number] for number in numbers if number in found]

    def of_id(self, image: str) -> list[ImageRow]:
        """All rows of the image with this id: of data/ first, then its answers, the newest first."""
        return self._images("i.id = ? ORDER BY i.logged, i.at DESC LIMIT 100", (image,))

    def named(self, text: str, most: int = 50) -> list[ImageRow]:
        """Rows whose id, key or path begins with `text`, or whose path ends with it as a file name."""
        found = {}
        parts = [("i.id >= ? AND i.id < ?", (text, text + "\x7f"))] if len(text) >= 6 and _is_hex(text) else []
        end = text + "\U0010ffff"
        parts += [(f"i.{name} >= ? AND i.{name} < ?", (text, end)) for name in ("key", "path") if len(text) > 2]
        if not text.startswith(("%", "_")):
            like = "%/" + text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
            parts.append(("i.path LIKE ? ESCAPE '\\'", (like,)))
        for where, values in parts:
            for row in self._images(f"{where} LIMIT ?", (*values, most)):
                found.setdefault(row.id, row)
        return list(found.values())[:most]

    def shards(self) -> list[str]:
        """The shards of data/ that have rows."""
        db = self._database.connection
        return self._safely(lambda: [name for (name,) in db().execute("SELECT name FROM files WHERE kind = 'shard'")])

    def at_places(self, places: Sequence[tuple[str, int]]) -> dict[tuple[str, int], ImageRow]:
        """(file, row in it) -> the row of the index, of those that have one."""
        where = " OR ".join(["(f.name = ? AND i.place = ?)"] * len(places)) or "0"
        return {(row.file, row.place): row for row in self._images(where, [part for place in places for part in place])}

    def answers_near(self, row: ImageRow, most: int) -> list[ImageRow]:
        """At most `most` answers of the same version, those nearest in time to the answer `row`."""
        at = windows.micros(row.at)
        same = "i.logged = 1 AND i.f_version = (SELECT f_version FROM images WHERE row = ?)"
        sql = f"{same} AND i.at {{}} ? ORDER BY i.at {{}} LIMIT ?"
        before = self._images(sql.format("<=", "DESC"), (row.row, at, most // 2))
        return before + self._images(sql.format(">", "ASC"), (row.row, at, most - most // 2))

    def probabilities(self, image: str) -> tuple[list[str], np.ndarray] | None:
        """(classes, (K,) probabilities) of an image of data/ by the model that `version` names; None: not measured."""

        def work():
            db = self._database.connection()
            found = db.execute('SELECT "values" FROM probabilities WHERE id = ?', (image,)).fetchone()
            return found and (json.loads(meta(db, "classes", "[]")), np.frombuffer(found[0], np.float32))

        return self._safely(work)

    def _images(self, where: str, values: Sequence) -> list[ImageRow]:
        names = self.columns().names

        def work() -> list[ImageRow]:
            return [
                _image(row, names) for row in self._database.connection().execute(f"{SELECT} WHERE {where}", values)
            ]

        return self._safely(work)

    # --- windows

    def windows(self, wanted: WindowFilter = ALL, after: str | None = None, most: int = 50) -> list[WindowRow]:
        """At most `most` wanted windows, the newest first. after: the id of the last window of the page before."""
        return self._safely(lambda: windows.read_windows(self._database.connection(), wanted, after, most))

    def windows_stamp(self) -> str:
        """Changes when the journal's windows do; "" while they are being read for the first time."""
        return self._safely(lambda: meta(self._database.connection(), "windows", "") or "")

    def window_outline(self, wanted: WindowFilter = ALL) -> list[WindowOutline]:
        """All wanted windows, oldest first, with what a chart needs of them."""
        return self._safely(lambda: windows.read_outline(self._database.connection(), wanted))

    def window(self, window: str) -> WindowRow | None:
        """One window by its id."""
        return self._safely(lambda: windows.read_window(self._database.connection(), window))

    def window_counts(self, wanted: WindowFilter = ALL) -> dict[str, dict[str, int]]:
        """{"outcome": {value: windows}, "version": ..., "source": ...}, each counted without the filter on itself."""
        return self._safely(lambda: windows.count_windows(self._database.connection(), wanted))

    def _safely(self, work: Callable[[], T]) -> T:
        """`work()`; where the file turns out damaged, once more with a new one."""
        try:
            return work()
        except sqlite3.OperationalError:
            raise  # busy or out of space: the file itself is well
        except sqlite3.DatabaseError as error:
            logger.warning("the console's index is damaged (%s): it is made again", error)
            self._database.broken()
            self._columns = None
            return work()


@functools.cache
def index_of(root: Path) -> Index:
    """The index of the project at `root`; every part of a process shares it."""
    return Index(root)


def _stamp(root: Path) -> tuple:
    """What changes when data/ does: a batch, answers of people, a tombstone."""
    found = []
    for name in ("data/batches", "data/annotations/batches", "data/annotations/taxonomy", "tombstones.json"):
        try:
            found.append((root / name).stat().st_mtime_ns)
        except OSError:
            found.append(0)
    return tuple(found)


def _is_hex(text: str) -> bool:
    return all(letter in "0123456789abcdef" for letter in text)


def _image(row: tuple, names: dict[str, list[str | None]]) -> ImageRow:
    number, id_, logged, file, place, at, key, path, group, given, confidence, ood, *codes = row
    facets = {
        facet: names[facet][code] if code < len(names[facet]) else None
        for facet, code in zip(FACETS, codes, strict=True)
    }
    return ImageRow(
        number, id_, bool(logged), file, place, None if at is None else moment(at), key, path, group,
        None if given is None else json.loads(given), confidence, ood, facets,
    )  # fmt: skip
