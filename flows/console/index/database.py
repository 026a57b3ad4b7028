"""The SQLite file of the index: its tables, connections of threads, and how it is made again.

    .evergreen/console/index.sqlite   WAL: many readers, one writer at a time
    .evergreen/console/index.lock     held by the process that refreshes or replaces the file

Everything in it comes from the production log, the journal of windows and data/. So a file that is damaged, of another
schema or deleted is replaced by an empty one, and the next refresh fills it.
"""

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from flows.console.index.facets import FACETS
from tasks.common.files import locked, try_locked
from tasks.common.paths import state_dir
from tasks.common.private import make_folder, open_private

SCHEMA_VERSION = 1
LOCK_SECONDS = 60.0
BUSY_MS = 5_000
CODES = ", ".join(f"f_{name} INTEGER NOT NULL DEFAULT 0" for name in FACETS)
TABLES = f"""
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE names (facet TEXT, code INTEGER, value TEXT NOT NULL, PRIMARY KEY (facet, code)) WITHOUT ROWID;
CREATE UNIQUE INDEX names_value ON names (facet, value);
CREATE TABLE files (number INTEGER PRIMARY KEY, name TEXT UNIQUE NOT NULL, kind TEXT NOT NULL, rows INTEGER NOT NULL);
CREATE TABLE images (
    row INTEGER PRIMARY KEY,
    id TEXT NOT NULL,
    logged INTEGER NOT NULL,      -- 1: an answer in the production log; 0: an image of data/
    file INTEGER NOT NULL,        -- files.number
    place INTEGER NOT NULL,       -- row in that file
    at INTEGER,                   -- microseconds since 1970: of the request, or when the image was taken
    key TEXT, path TEXT, "group" TEXT,
    given TEXT,                   -- the label as first given, JSON; data/ only
    confidence REAL, ood REAL,
    changed INTEGER NOT NULL,     -- generation of the refresh that wrote it last
    {CODES}
);
CREATE UNIQUE INDEX images_data ON images (id) WHERE logged = 0;
CREATE INDEX images_id ON images (id);
CREATE INDEX images_key ON images (key) WHERE key IS NOT NULL;
CREATE INDEX images_path ON images (path) WHERE path IS NOT NULL;
CREATE INDEX images_file ON images (file);
CREATE INDEX images_changed ON images (changed);
CREATE INDEX images_answers ON images (at) WHERE logged = 1;
CREATE TABLE probabilities (id TEXT PRIMARY KEY, "values" BLOB NOT NULL) WITHOUT ROWID;  -- of data/, float32
CREATE TABLE windows (
    id TEXT PRIMARY KEY, "start" INTEGER NOT NULL, "end" INTEGER NOT NULL, outcome TEXT NOT NULL, version TEXT NOT NULL,
    bundle TEXT NOT NULL, rows INTEGER NOT NULL, used INTEGER NOT NULL, sentence TEXT NOT NULL,
    drifted TEXT NOT NULL,        -- names of the measures that drifted, JSON
    errors INTEGER NOT NULL, alarms INTEGER NOT NULL, worst REAL, retrained INTEGER NOT NULL, revision INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX windows_outcome ON windows (outcome, id);
CREATE INDEX windows_version ON windows (version, id);
CREATE TABLE window_sources (
    window TEXT, source TEXT, rows INTEGER NOT NULL, PRIMARY KEY (window, source)
) WITHOUT ROWID;
CREATE INDEX window_sources_source ON window_sources (source, window);
"""


class Database:
    """The index's file. One connection per thread, opened again where the file was replaced."""

    def __init__(self, root: Path):
        self.folder = state_dir(root) / "console"
        self.file, self._lock_file = self.folder / "index.sqlite", self.folder / "index.lock"
        self._threads = threading.local()

    def connection(self) -> sqlite3.Connection:
        """This thread's connection to the present file, which is made if it is missing or of another schema."""
        for _ in range(3):
            inode = self._inode()
            if inode is not None and getattr(self._threads, "inode", None) == inode:
                return self._threads.connection
            self.close()
            if inode is None:
                self._create()
                continue
            connection = self._open()
            if connection is not None:
                self._threads.connection, self._threads.inode = connection, inode
                return connection
            self.discard()
        raise sqlite3.DatabaseError(f"{self.file} cannot be made")

    def close(self) -> None:
        """Close this thread's connection."""
        connection = getattr(self._threads, "connection", None)
        self._threads.connection = self._threads.inode = None
        if connection is not None:
            with suppress(sqlite3.Error):
                connection.close()

    def discard(self, seen: int | None = None) -> None:
        """Delete the file and make an empty one; `seen`: only if the file is still the one with this inode."""
        make_folder(self.folder)
        with locked(self._lock_file, LOCK_SECONDS, "the console's index"):
            if seen is None or self._inode() in (seen, None):
                self._make()

    def broken(self) -> None:
        """Replace the file that this thread found damaged, unless another thread has replaced it since."""
        seen = getattr(self._threads, "inode", None)
        self.close()
        self.discard(seen)

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection | None]:
        """The connection of the only process and thread that may write; None while another one writes."""
        self.connection()
        with try_locked(self._lock_file) as mine:
            yield self._threads.connection if mine and self._inode() == self._threads.inode else None

    def _inode(self) -> int | None:
        try:
            return os.stat(self.file).st_ino
        except FileNotFoundError:
            return None

    def _create(self) -> None:
        make_folder(self.folder)
        with locked(self._lock_file, LOCK_SECONDS, "the console's index"):
            if self._inode() is None:
                self._make()

    def _make(self) -> None:
        """A file with empty tables, put in its place when it is complete."""
        new = self.file.with_name("index.new")
        remove_files(new)
        os.close(open_private(new, os.O_RDWR | os.O_CREAT))
        with closing(sqlite3.connect(new)) as connection:
            connection.executescript(TABLES)
            connection.execute("INSERT INTO meta VALUES ('schema', ?)", (str(SCHEMA_VERSION),))
            connection.commit()
            connection.execute("PRAGMA journal_mode = WAL")
        remove_files(self.file)  # an old -wal would be played into the new file
        os.replace(new, self.file)

    def _open(self) -> sqlite3.Connection | None:
        """A connection, or None if the file is not an index of this schema."""
        try:
            connection = sqlite3.connect(self.file, timeout=BUSY_MS / 1000, isolation_level=None)
        except sqlite3.Error:
            return None
        try:
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute("PRAGMA secure_delete = ON")  # deleted rows leave nothing in free pages
            found = connection.execute("SELECT value FROM meta WHERE name = 'schema'").fetchone()
            if found == (str(SCHEMA_VERSION),):
                return connection
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                connection.close()
                raise
        except sqlite3.DatabaseError:
            pass
        connection.close()
        return None


def remove_files(file: Path) -> None:
    """Delete a SQLite file with its -wal and -shm."""
    for name in ("", "-wal", "-shm"):
        file.with_name(file.name + name).unlink(missing_ok=True)


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """All that the block writes, or nothing."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")


def meta(db: sqlite3.Connection, name: str, default: str = "") -> str:
    """A value of the table `meta`."""
    found = db.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
    return found[0] if found else default


def set_meta(db: sqlite3.Connection, name: str, value: str) -> None:
    """Store a value of the table `meta`."""
    db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))


def bump(db: sqlite3.Connection) -> int:
    """A new generation, for the rows that the present transaction writes."""
    generation = int(meta(db, "generation", "0")) + 1
    set_meta(db, "generation", str(generation))
    return generation


class Codes:
    """Facet values as small numbers, 0 for none. New values are added to the table `names`."""

    def __init__(self, db: sqlite3.Connection):
        self._db = db
        self._known: dict[str, dict[str, int]] = {}

    def __call__(self, facet: str, value: str | None) -> int:
        if value is None:
            return 0
        known = self._known.get(facet)
        if known is None:
            rows = self._db.execute("SELECT value, code FROM names WHERE facet = ?", (facet,))
            known = self._known[facet] = dict(rows.fetchall())
        code = known.get(value)
        if code is None:
            code = known[value] = len(known) + 1  # no name is ever deleted
            self._db.execute("INSERT INTO names VALUES (?, ?, ?)", (facet, code, value))
        return code
