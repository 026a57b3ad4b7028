"""Windows of the journal in the index: filled from it, and read page by page.

Ids of windows sort by time, so a page goes on from the last id of the one before.
"""

import json
import re
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from flows.console.index.database import Codes, bump, meta, set_meta, transaction
from monitoring.contracts import DriftDecision, Measures
from monitoring.journal import Journal
from monitoring.pages.window_page import drift_ratio
from tasks.common.files import content_key

RELEASED = re.compile(r"v[0-9]+\.[0-9]+\.[0-9]+")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
BLOCK = 200  # windows of one transaction
COLUMNS = "id, start, end, outcome, version, bundle, rows, used, sentence, drifted, errors, alarms, worst, retrained"
COLUMNS = ", ".join(f'"{name}"' for name in (*COLUMNS.split(", "), "revision"))


@dataclass(frozen=True)
class WindowRow:
    """One window as lists show it."""

    id: str
    start: datetime
    end: datetime
    outcome: str  # of DriftDecision
    version: str
    bundle: str
    rows: int
    used: int
    sentence: str
    drifted: tuple[str, ...]  # code names of the measures that drifted
    errors: int  # measures that failed
    alarms: int
    worst: float | None  # the largest value of a drifted measure relative to its threshold
    retrained: bool  # its decision started a retraining
    revision: int  # how often it was measured again
    sources: tuple[str, ...] = ()  # of the window's answers, most first; at most 20


@dataclass(frozen=True)
class WindowOutline:
    """What a chart needs of a window: thousands of them are read at once."""

    id: str
    start: datetime
    end: datetime
    outcome: str
    version: str
    bundle: str
    drifted: tuple[str, ...]  # code names, the one that moved most first
    worst: float | None
    retrained: bool


@dataclass(frozen=True)
class WindowFilter:
    """Which windows are wanted: those that began in [since, until) and fit the rest; an empty part fits all."""

    outcomes: tuple[str, ...] = ()
    versions: tuple[str, ...] = ()
    source: str | None = None  # only windows with answers of this source
    since: datetime | None = None
    until: datetime | None = None

    def sql(self) -> tuple[list[str], list]:
        """(conditions, their values) on the table of windows."""
        where, values = ["1"], []
        for name, wanted in (("outcome", self.outcomes), ("version", self.versions)):
            if wanted:
                where.append(f"{name} IN ({', '.join('?' * len(wanted))})")
                values += wanted
        if self.source is not None:
            where.append("EXISTS (SELECT 1 FROM window_sources s WHERE s.window = windows.id AND s.source = ?)")
            values.append(self.source)
        for sign, at in ((">=", self.since), ("<", self.until)):
            if at is not None:
                where.append(f'"start" {sign} ?')
                values.append(micros(at))
        return where, values


ALL = WindowFilter()


def micros(at: datetime) -> int:
    """Microseconds since 1970."""
    return (at - EPOCH) // timedelta(microseconds=1)


def moment(at: int) -> datetime:
    """The time of `micros`."""
    return EPOCH + timedelta(microseconds=at)


# --- filling


def fill_windows(db: sqlite3.Connection, journal: Journal, late) -> bool:
    """Bring the table up to the journal, newest windows first; False if `late()` said stop before the end."""
    listed = journal.windows()
    revisions = journal.revisions()
    retrained = set(journal.retrained())
    key = content_key(listed[:1] + listed[-1:], len(listed), sorted(revisions.items()), sorted(retrained))
    if meta(db, "windows") == key:
        return True
    known = {
        id_: (revision, bool(was)) for id_, revision, was in db.execute("SELECT id, revision, retrained FROM windows")
    }
    skipped = set(json.loads(meta(db, "windows_skipped", "[]")))
    if gone := sorted(known.keys() - set(listed)):
        with transaction(db):
            for id_ in gone:
                db.execute("DELETE FROM windows WHERE id = ?", (id_,))
                db.execute("DELETE FROM window_sources WHERE window = ?", (id_,))
    wanted = [
        id_
        for id_ in reversed(listed)
        if known.get(id_) != (revisions.get(id_, 0), id_ in retrained) and id_ not in skipped
    ]
    for start in range(0, len(wanted), BLOCK):
        if late():
            return False
        found = {id_: journal.read(id_, revisions) for id_ in wanted[start : start + BLOCK]}
        with transaction(db):
            names, generation = Codes(db), bump(db)
            for id_, pair in found.items():
                if pair is None:  # damaged, or of a newer Evergreen
                    skipped.add(id_)
                    continue
                db.execute(
                    f"INSERT OR REPLACE INTO windows ({COLUMNS}) VALUES ({', '.join('?' * 15)})",
                    _row(*pair, id_ in retrained, revisions.get(id_, 0)),
                )
                if id_ not in known:
                    _assign(db, names, pair[0], generation)
            set_meta(db, "windows_skipped", json.dumps(sorted(skipped)))
    with transaction(db):
        set_meta(db, "windows", key)
    return True


def _row(measures: Measures, decision: DriftDecision, retrained: bool, revision: int) -> tuple:
    window = measures.window
    drifted = sorted(measures.drifted(), key=lambda finding: -(drift_ratio(finding) or 0))
    return (
        window.id, micros(window.start), micros(window.end), decision.outcome, window.version, window.bundle,
        window.rows, window.used, decision.sentence, json.dumps([finding.name for finding in drifted]),
        sum(finding.status == "error" for finding in measures.findings), len(decision.alarms),
        max((ratio for finding in drifted if (ratio := drift_ratio(finding)) is not None), default=None),
        int(retrained), revision,
    )  # fmt: skip


def _assign(db: sqlite3.Connection, names: Codes, measures: Measures, generation: int) -> None:
    """Give the answers of a new window its name."""
    window = measures.window
    of = (micros(window.start), micros(window.end))
    versions = db.execute(
        "SELECT DISTINCT i.f_version, n.value FROM images i LEFT JOIN names n ON n.facet = 'version' "
        "AND n.code = i.f_version WHERE i.logged = 1 AND i.at >= ? AND i.at < ?",
        of,
    ).fetchall()
    own = [code for code, version in versions if not of_another(version, window.version)]
    if own:
        db.execute(
            "UPDATE images SET f_window = ?, changed = ? WHERE logged = 1 AND at >= ? AND at < ? "
            f"AND f_version IN ({', '.join('?' * len(own))})",
            (names("window", window.id), generation, *of, *own),
        )
        count_sources(db, [window.id])


def count_sources(db: sqlite3.Connection, windows: Sequence[str]) -> None:
    """Count again the sources of the answers of `windows`."""
    for window in windows:
        db.execute("DELETE FROM window_sources WHERE window = ?", (window,))
        db.execute(
            "INSERT INTO window_sources SELECT w.id, n.value, count(*) FROM windows w "
            "JOIN names own ON own.facet = 'window' AND own.value = w.id "
            "JOIN images i ON i.logged = 1 AND i.at >= w.start AND i.at < w.end AND i.f_window = own.code "
            "JOIN names n ON n.facet = 'source' AND n.code = i.f_source WHERE w.id = ? GROUP BY n.value",
            (window,),
        )


# --- reading


def read_windows(
    db: sqlite3.Connection, wanted: WindowFilter = ALL, after: str | None = None, most: int = 50
) -> list[WindowRow]:
    """At most `most` wanted windows, the newest first. after: the id of the last window of the page before."""
    where, values = wanted.sql()
    if after is not None:
        where.append("id < ?")
        values.append(after)
    sql = f"SELECT {COLUMNS} FROM windows WHERE {' AND '.join(where)} ORDER BY id DESC LIMIT ?"
    rows = db.execute(sql, (*values, most)).fetchall()
    return [_window(db, row) for row in rows]


def read_outline(db: sqlite3.Connection, wanted: WindowFilter = ALL) -> list[WindowOutline]:
    """All wanted windows, oldest first."""
    where, values = wanted.sql()
    sql = 'SELECT id, "start", "end", outcome, version, bundle, drifted, worst, retrained FROM windows'
    rows = db.execute(f"{sql} WHERE {' AND '.join(where)} ORDER BY id", values)
    return [
        WindowOutline(
            id_, moment(start), moment(end), outcome, version, bundle, tuple(json.loads(drifted)), worst, bool(re)
        )
        for id_, start, end, outcome, version, bundle, drifted, worst, re in rows
    ]


def read_window(db: sqlite3.Connection, window: str) -> WindowRow | None:
    """One window by its id."""
    row = db.execute(f"SELECT {COLUMNS} FROM windows WHERE id = ?", (window,)).fetchone()
    return row and _window(db, row)


def count_windows(db: sqlite3.Connection, wanted: WindowFilter = ALL) -> dict[str, dict[str, int]]:
    """{"outcome": {value: windows}, "version": ..., "source": ...}, each without the filter on itself."""
    found = {}
    for name, others in (("outcome", replace(wanted, outcomes=())), ("version", replace(wanted, versions=()))):
        where, values = others.sql()
        sql = f"SELECT {name}, count(*) FROM windows WHERE {' AND '.join(where)} GROUP BY {name} ORDER BY 2 DESC, 1"
        found[name] = dict(db.execute(sql, values).fetchall())
    where, values = replace(wanted, source=None).sql()
    sql = (
        "SELECT s.source, count(*) FROM windows JOIN window_sources s ON s.window = windows.id "
        f"WHERE {' AND '.join(where)} GROUP BY s.source ORDER BY 2 DESC, 1"
    )
    return found | {"source": dict(db.execute(sql, values).fetchall())}


def _window(db: sqlite3.Connection, row: tuple) -> WindowRow:
    sources = db.execute(
        "SELECT source FROM window_sources WHERE window = ? ORDER BY rows DESC, source LIMIT 20", row[:1]
    )
    return WindowRow(
        row[0], moment(row[1]), moment(row[2]), *row[3:9], tuple(json.loads(row[9])), *row[10:13], bool(row[13]),
        row[14], tuple(name for (name,) in sources.fetchall()),
    )  # fmt: skip


def window_order(db: sqlite3.Connection) -> list[tuple[int, int, str, str]]:
    """(start, end, id, version) of all windows, by time."""
    return db.execute('SELECT "start", "end", id, version FROM windows ORDER BY "start"').fetchall()


def of_another(version: str | None, window: str) -> bool:
    """Is `version` another released one than that of a `window`? A canary's answers are of none of these windows.

    Answers of a program that names no released version may be the window's model's own.
    """
    return version is not None and version != window and RELEASED.fullmatch(version) is not None
