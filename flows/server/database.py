"""The SQLite database of the project's Prefect server: a damaged one is set aside before a start.

It holds the history that Prefect's pages show, and schedules, which every start of the services deploys again. Data,
models and what is live are elsewhere.
"""

import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from tasks.common.rebuildable import set_aside

NAME = "prefect.db"
DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
WITHOUT = "Prefect starts with a new one, and its pages show no earlier runs; data, models and releases are not in it"


def damage(file: Path) -> str | None:
    """What is wrong with the database `file`; None if it is whole, absent, or cannot be judged."""
    if file.is_dir():
        return "a folder is in its place"
    if not file.is_file() or not file.stat().st_size:  # SQLite makes it
        return None
    try:
        with closing(sqlite3.connect(f"file:{quote(str(file))}?mode=rw", uri=True)) as database:
            ((said,),) = database.execute("PRAGMA quick_check(1)").fetchall()
    except sqlite3.DatabaseError as error:
        return str(error) if getattr(error, "sqlite_errorcode", 0) & 0xFF in DAMAGE else None
    return None if said == "ok" else said.splitlines()[-1]


def set_damaged_aside(home: Path) -> None:
    """Make room for a new database if the one in `home` is damaged. No server may be using it."""
    file = home / NAME
    if (why := damage(file)) is None:
        return
    for part in ("-wal", "-shm"):  # they belong to the damaged file, and would damage a new one
        file.with_name(NAME + part).unlink(missing_ok=True)
    set_aside(file, why, WITHOUT)
