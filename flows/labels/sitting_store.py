"""Who looks at which image: leases, skips, images passed on, what each person said in a sitting.

    .evergreen/labels/sittings.sqlite3

It works across processes. Nothing in it is an answer: those are in the journal (flows.labels.journal), so a damaged
file is set aside, and two people may then see the same image once. A person's sitting ends when they finish, or after
IDLE_SECONDS without an answer.
"""

import json
import os
import sqlite3
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from flows.labels.journal import IDLE_SECONDS, Answer
from tasks.common.paths import state_dir
from tasks.common.private import make_folder, open_private

LEASE = timedelta(minutes=10)  # an image is one person's for so long
KEPT = timedelta(days=7)  # what was said is remembered for undo
BUSY_SECONDS = 20.0
NAME = "sittings.sqlite3"
TABLES = """
create table if not exists lease (id text primary key, person text not null, until real not null);
create table if not exists skipped (person text not null, id text not null, at real not null, primary key (person, id));
create table if not exists passed (person text not null, id text not null, at real not null, primary key (person, id));
create table if not exists sitting (person text primary key, started real not null, last real not null);
create table if not exists said (n integer primary key, person text not null, queue text not null, id text not null,
  at real not null, answer text not null);
create index if not exists said_by on said (person, n);
create index if not exists said_about on said (id);
"""


@dataclass(frozen=True)
class Said:
    """One acknowledged answer of a person."""

    number: int
    queue: str
    answer: Answer
    at: datetime


@dataclass(frozen=True)
class Hidden:
    """Images that are not shown to one person now."""

    leased: frozenset[str]  # others look at them
    skipped: frozenset[str]  # by this person, in this sitting
    passed: frozenset[str]  # this person asked somebody else
    freed: frozenset[str]  # somebody passed them on: their assignment does not count
    said: frozenset[str]  # answered by anybody a short time ago


class Sittings:
    """The store of one project. Calls may come from several threads and processes at once."""

    def __init__(self, root: Path):
        self.file = state_dir(root) / "labels" / NAME
        make_folder(self.file.parent)

    def lease(
        self, person: str, wanted: Sequence[str], count: int, now: datetime | None = None, length: timedelta = LEASE
    ) -> list[str]:
        """The first `count` ids of `wanted` that nobody else looks at: now they are this person's for `length`."""
        at = (now or datetime.now(UTC)).timestamp()
        with self._changing() as db:
            db.execute("delete from lease where until <= ?", (at,))
            taken = {row[0] for row in db.execute("select id from lease where person <> ?", (person,))}
            mine = [name for name in wanted if name not in taken][:count]
            until = at + length.total_seconds()
            db.executemany("insert or replace into lease values (?, ?, ?)", [(name, person, until) for name in mine])
        return mine

    def skip(self, person: str, image: str, now: datetime | None = None) -> None:
        """Do not show `image` to this person again in this sitting."""
        self._put_aside("skipped", person, image, now or datetime.now(UTC))

    def pass_on(self, person: str, image: str, now: datetime | None = None) -> None:
        """Never show `image` to this person again: all others are asked, even if it was assigned to this one."""
        self._put_aside("passed", person, image, now or datetime.now(UTC))

    def take_up(self, person: str, image: str) -> None:
        """Show an image again that was skipped or passed on."""
        with self._changing() as db:
            for table in ("skipped", "passed"):
                db.execute(f"delete from {table} where person = ? and id = ?", (person, image))

    def hidden(self, person: str, now: datetime | None = None) -> Hidden:
        """What is not shown to this person at the moment."""
        now = now or datetime.now(UTC)
        self._begin(person, now)
        with self._open() as db:
            return Hidden(
                leased=_ids(db, "select id from lease where person <> ? and until > ?", person, now.timestamp()),
                skipped=_ids(db, "select id from skipped where person = ?", person),
                passed=_ids(db, "select id from passed where person = ?", person),
                freed=_ids(db, "select id from passed"),
                said=_ids(db, "select id from said where at > ?", (now - timedelta(hours=1)).timestamp()),
            )

    def add(self, person: str, queue: str, answer: Answer, now: datetime | None = None) -> None:
        """Remember an answer that the journal holds, and release its image."""
        now = now or datetime.now(UTC)
        self._begin(person, now)
        with self._changing() as db:
            row = (person, queue, answer.id, now.timestamp(), _text(answer))
            db.execute("insert into said (person, queue, id, at, answer) values (?, ?, ?, ?, ?)", row)
            db.execute("delete from lease where id = ?", (answer.id,))
            db.execute("update sitting set last = ? where person = ?", (now.timestamp(), person))

    def said(self, person: str, most: int = 1) -> list[Said]:
        """What this person said last, the newest first."""
        with self._open() as db:
            rows = db.execute(
                "select n, queue, at, answer from said where person = ? order by n desc limit ?", (person, most)
            ).fetchall()
        return [Said(n, queue, _answer(text), datetime.fromtimestamp(at, UTC)) for n, queue, at, text in rows]

    def drop(self, said: Said) -> None:
        """Forget that it was said: it was taken back."""
        with self._changing() as db:
            db.execute("delete from said where n = ?", (said.number,))

    def done(self, person: str, now: datetime | None = None) -> dict[str, int]:
        """Queue -> answers of this person in this sitting."""
        self._begin(person, now or datetime.now(UTC))
        with self._open() as db:
            found = db.execute(
                "select queue, count(*) from said where person = ? and at >= "
                "(select started from sitting where person = ?) group by queue",
                (person, person),
            )
            return dict(found.fetchall())

    def end(self, person: str) -> None:
        """End the sitting of this person: what they skipped is shown again, and what they looked at is free."""
        with self._changing() as db:
            for table in ("sitting", "skipped", "lease"):
                db.execute(f"delete from {table} where person = ?", (person,))

    def forget(self, ids: Collection[str]) -> None:
        """Remove every trace of the samples `ids`."""
        if not self.file.is_file():
            return
        with self._changing() as db:
            for table in ("lease", "skipped", "passed", "said"):
                db.executemany(f"delete from {table} where id = ?", [(name,) for name in ids])

    def _put_aside(self, table: str, person: str, image: str, now: datetime) -> None:
        self._begin(person, now)
        with self._changing() as db:
            db.execute(f"insert or replace into {table} values (?, ?, ?)", (person, image, now.timestamp()))
            db.execute("delete from lease where id = ? and person = ?", (image, person))
            db.execute("update sitting set last = ? where person = ?", (now.timestamp(), person))

    def _begin(self, person: str, now: datetime) -> None:
        """Start a sitting of this person unless one is under way."""
        at = now.timestamp()
        with self._open() as db:
            row = db.execute("select last from sitting where person = ?", (person,)).fetchone()
        if row is not None and at - row[0] < IDLE_SECONDS:
            return
        with self._changing() as db:
            db.execute("insert or replace into sitting values (?, ?, ?)", (person, at, at))
            db.execute("delete from skipped where person = ?", (person,))
            db.execute("delete from said where at < ?", ((now - KEPT).timestamp(),))

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            db = self._connect()
        except sqlite3.OperationalError:  # locked, or a full disk: the file is whole
            raise
        except sqlite3.DatabaseError:
            os.replace(self.file, self.file.with_name(f"{NAME}.damaged"))
            db = self._connect()
        with closing(db):
            yield db

    @contextmanager
    def _changing(self) -> Iterator[sqlite3.Connection]:
        with self._open() as db:
            db.execute("begin immediate")
            yield db
            db.execute("commit")

    def _connect(self) -> sqlite3.Connection:
        new = not self.file.exists()
        if new:
            os.close(open_private(self.file, os.O_RDWR | os.O_CREAT))
        db = sqlite3.connect(self.file, timeout=BUSY_SECONDS, isolation_level=None)
        db.execute("pragma synchronous = off")  # survives a kill; a power cut may cost who looked at what
        db.execute("pragma secure_delete = on")  # an erased image's id does not stay in a free page
        if new or not db.execute("select count(*) from sqlite_master").fetchone()[0]:
            db.executescript(TABLES)
        return db


def _ids(db: sqlite3.Connection, query: str, *values) -> frozenset[str]:
    return frozenset(row[0] for row in db.execute(query, values))


def _text(answer: Answer) -> str:
    about = {"id": answer.id, "label": answer.label, "exclude": answer.exclude, "annotator": answer.annotator}
    about |= {"role": answer.role, "at": answer.at.isoformat() if answer.at else None, "why": answer.why}
    return json.dumps(about | {"model_version": answer.model_version}, ensure_ascii=False)


def _answer(text: str) -> Answer:
    about = json.loads(text)
    return Answer(**about | {"at": datetime.fromisoformat(about["at"]) if about["at"] else None})
