"""Find and blank traces of erased images in Prefect's database: parameters, artifacts, logs.

The project's own server uses SQLite under .evergreen/prefect. Rows are changed in one transaction, whether the server
runs or not; freed pages are overwritten. A database that the user has configured is named, not searched.
"""

import os
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from flows.erasure.places import Seen
from tasks.common.params import Params
from tasks.common.paths import state_dir
from tasks.erasure.documents import BLANK
from tasks.erasure.traces import Search

PLACE = "Prefect: runs, parameters, logs, artifacts"
WAIT = 60.0  # seconds for the server's own transaction
TEXT = ("TEXT", "CHAR", "JSON", "CLOB")


def search_prefect(root: Path, params: Params, search: Search) -> Seen:
    """Read every text of every table."""
    seen = Seen(PLACE)
    for name in ("PREFECT_API_URL", params.serve.database_env):
        if os.environ.get(name):
            seen.notes.append(
                f"the server or database of {name} was not searched: it holds no image, but a name may "
                "stand in a reason that a person gave"
            )
    file = database(root)
    if not file.is_file():
        return seen
    with closing(_open(file)) as connection:
        for table, _, column, text in _texts(connection):
            seen.read += 1
            if hits := search.text(text):
                seen.count(Counter(hit.how for hit in hits), f"{table}.{column}")
    return seen


def clean_prefect(root: Path, search: Search) -> int:
    """Blank every trace; how many texts changed."""
    file = database(root)
    if not file.is_file():
        return 0
    with closing(_open(file)) as connection:
        found = [(table, row, column, text) for table, row, column, text in _texts(connection) if search.text(text)]
        if not found:
            return 0
        connection.execute("PRAGMA secure_delete = ON")
        with connection:
            for table, row, column, text in found:
                statement = f'UPDATE "{table}" SET "{column}" = ? WHERE rowid = ?'
                connection.execute(statement, (_blanked(text, search).decode(), row))
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return len(found)


def database(root: Path) -> Path:
    """The SQLite file of the project's own server."""
    return state_dir(root) / "prefect" / "prefect.db"


def _open(file: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(file, timeout=WAIT)
    connection.text_factory = bytes
    return connection


def _texts(connection: sqlite3.Connection) -> Iterator[tuple[str, int, str, bytes]]:
    """(table, row, column, text) of every text; a table without row ids holds keys alone."""
    tables = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'table'").fetchall()
    for table, sql in [(name.decode(), (sql or b"").upper()) for name, sql in tables]:
        if b"WITHOUT ROWID" in sql or b"VIRTUAL" in sql:
            continue
        about = connection.execute(f'PRAGMA table_info("{table}")').fetchall()
        columns = [one[1].decode() for one in about if any(kind in one[2].decode().upper() for kind in TEXT)]
        if not columns:
            continue
        listed = ", ".join(f'"{column}"' for column in columns)
        for row, *values in connection.execute(f'SELECT rowid, {listed} FROM "{table}"'):
            for column, value in zip(columns, values, strict=True):
                if isinstance(value, bytes) and len(value) >= 6:
                    yield table, row, column, value


def _blanked(text: bytes, search: Search) -> bytes:
    out, at = [], 0
    for hit in search.text(text):
        if hit.start >= at:
            out += [text[at : hit.start], BLANK]
            at = hit.end
    return b"".join([*out, text[at:]])
