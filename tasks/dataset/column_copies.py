"""Copies of shards without their image bytes, so that who reads a column need not hash the images.

    .evergreen/cache/columns/<LAYOUT>/<shard>.parquet    sealed: all columns of the shard except image.bytes

A shard's columns count only if its whole file has the hash in its name. Of ten million photos that is 600 GB to read
before a retrain knows a single label, where the columns are 1 GB. So the first reader that has found a shard undamaged
leaves this copy. Later readers hash the copy alone (tasks.common.sealed). Images are compared with their ids whenever
they are read, so a damaged shard is still found before an image of it counts.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import pyarrow.parquet as pq

from tasks.common.paths import state_dir
from tasks.common.sealed import open_sealed, sealed_path
from tasks.common.verified import open_named

LAYOUT = "1"  # change it with what a copy holds
LEAST = 1 << 20  # bytes: a smaller shard is hashed as fast as a copy of it is opened
BYTES = "image.bytes"
DISTINCT = ("id", "key", "image.path")  # columns whose values hardly repeat: a dictionary would only cost time


@contextmanager
def open_columns(path: Path, **options) -> Iterator[pq.ParquetFile]:
    """Shard `path` as Parquet, for every column except image.bytes; options: of pq.ParquetFile.

    It is the copy, or the shard where it is small or lies in no project. Raises DamagedFile if the shard is read and is
    not named by its content.
    """
    place = _place(path) if path.stat().st_size >= LEAST else None
    copy = None if place is None else open_sealed(place) or _make(path, place)
    with copy or open_named(path) as file:
        yield pq.ParquetFile(file, **options)


def _place(path: Path) -> Path | None:
    """Where the copy of a shard lies; None outside of a project's data/."""
    root = path.parent.parent
    if path.parent.name != "data" or not (state := state_dir(root)).is_dir():
        return None
    return state / "cache" / "columns" / LAYOUT / path.name


def _make(path: Path, place: Path) -> BinaryIO | None:
    """Copy the columns of shard `path` to `place` and open them; None if they cannot be written there."""
    with open_named(path) as file:
        shard = pq.ParquetFile(file)
        names = [shard.schema.column(at).path for at in range(len(shard.schema.names))]
        table = shard.read([name for name in names if name != BYTES])
    repeated = [name for name in names if name not in (BYTES, *DISTINCT)]
    with suppress(OSError):  # another user's project, or a full disk: the shard itself serves as well
        with sealed_path(place) as temporary:
            pq.write_table(table, temporary, compression="zstd", use_dictionary=repeated)
        return open_sealed(place)
    return None
