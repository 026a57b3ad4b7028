"""A migrated, empty database in the user's cache: a new project's Prefect server starts from a copy.

Prefect makes its SQLite database by more than a hundred migrations, which take seconds. The first server of a Prefect
version runs them and keeps the result before anything else is written. So what is kept has tables and no rows: no key,
nothing of a project. Prefect runs its migrations at every start; on the copy it finds none that are left.
"""

import asyncio
import hashlib
import os
import sqlite3
from contextlib import closing
from pathlib import Path

from flows.server.database import NAME
from flows.server.environment import DATABASE
from tasks.common.files import atomic_path
from tasks.common.private import make_folder
from tasks.common.sealed import read_sealed, sealed_path


def prepare(home: Path) -> None:
    """Make Prefect's database in `home` if it is missing: a copy of the kept one, else by migrations.

    The server's process calls it before Prefect opens the database. Does nothing where the environment names another
    database, as Postgres. A cache that cannot be read or written only costs the next project its seconds.
    """
    file = home / NAME
    if os.environ.get(DATABASE) or (file.exists() and file.stat().st_size):
        return
    from prefect import __version__
    from prefect.server.database.dependencies import provide_database_interface

    interface = provide_database_interface()
    kept = kept_database(__version__, Path(interface.orm.versions_dir))
    if copy(kept, file):
        return
    asyncio.run(interface.create_db())
    try:
        keep(file, kept)
    except (OSError, sqlite3.Error) as error:
        print(f"the migrated database was not kept for other projects: {error}", flush=True)


def kept_database(version: str, migrations: Path) -> Path:
    """Where the database of Prefect `version` is kept, for exactly the files in the folder `migrations`."""
    names = "\n".join(sorted(file.name for file in migrations.glob("*.py")))
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    digest = hashlib.sha256(names.encode()).hexdigest()[:12]
    return Path(caches) / "evergreen" / f"prefect-{version}-{digest}.db"


def copy(kept: Path, file: Path) -> bool:
    """Make the new database `file` from the `kept` one; False, and no file, if that cannot be had."""
    try:
        content = read_sealed(kept)
    except OSError as error:  # the cache is another user's, or its disk can only be read
        print(f"the kept database was not used: {error}", flush=True)
        return False
    if content is None:
        return False
    for part in ("-wal", "-shm"):  # of a database that was deleted: SQLite would write its pages into the copy
        file.with_name(file.name + part).unlink(missing_ok=True)
    with atomic_path(file) as temporary:
        temporary.write_bytes(content)
    return True


def keep(file: Path, kept: Path) -> None:
    """Keep the migrated database `file`, which no server has used yet, as `kept`."""
    make_folder(kept.parent)
    with sealed_path(kept) as temporary, closing(sqlite3.connect(file)) as database:
        # into the empty temporary file: a copy of file alone would lack what is in its write-ahead log
        database.execute("VACUUM INTO ?", (str(temporary),))
