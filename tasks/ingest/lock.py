"""One writer of data/ at a time, and removal of what a killed ingest left behind.

The journal lists the files that data/ held before an ingest wrote. If an ingest is killed, its journal stays, and the
next lock holder removes the files that were added since and that no manifest lists.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tasks.common.files import content_key, locked
from tasks.common.paths import state_dir
from tasks.common.private import make_folder
from tasks.common.rebuildable import expect, read_rebuildable
from tasks.dataset import shards

PATTERNS = ("*.parquet", "annotations/*.parquet", "annotations/batches/*.json")
PATTERNS += (".*.tmp", "annotations/.*.tmp", "annotations/batches/.*.tmp", "batches/.*.tmp")
WAIT_SECONDS = 6 * 3600.0  # how long to wait for another ingest to end


@contextmanager
def data_lock(root: Path) -> Iterator[Path]:
    """Hold the data set's lock and yield the path of the journal; the kernel frees the lock of a dead holder.

    Removes what a killed ingest left. Files that were in data/ before that ingest are never touched.
    """
    folder = root / "data"
    state = state_dir(root) / "ingest"
    make_folder(state)
    name = content_key(str(folder.resolve()))[:16]
    journal = state / f"{name}.json"
    with locked(state / f"{name}.lock", WAIT_SECONDS, f"the data set {folder}", on_wait=_say_waiting):
        before = read_rebuildable(journal, _accept, "what a killed ingest left in data/ stays, unused")
        if before is not None:
            _remove_leftovers(folder, before)
            journal.unlink()
        yield journal


def _accept(files: list) -> set[str]:
    return {expect(name, str) for name in expect(files, list)}


def _say_waiting() -> None:
    print("waiting for another ingest to end", file=sys.stderr)


def data_files(folder: Path) -> Iterator[str]:
    """Shards, annotations and unfinished files in `folder` (data/), as paths relative to it."""
    for pattern in PATTERNS:
        yield from (str(file.relative_to(folder)) for file in folder.glob(pattern))


def _remove_leftovers(folder: Path, before: set[str]) -> None:
    listed = shards.listed_files(folder)
    for name in set(data_files(folder)) - listed - before:
        (folder / name).unlink()
