"""A source in S3 (`evergreen ingest s3://bucket/prefix`) as a folder on disk, while it is read.

The readers of tasks.sources.source go through a source twice. So its objects are brought here once, and removed when
the ingest is over; that the disk can hold them all is asked before the first is fetched.
"""

import fcntl
import shutil
import uuid
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path, PurePosixPath

from tasks.common.cells import without_surrogates
from tasks.common.errors import DataError
from tasks.common.params import StoreParams
from tasks.sources.safe_files import JUNK
from tasks.sources.source import READERS, Columns, named_paths
from tasks.storage.blobs import DiskFull, disk_full_is_said
from tasks.storage.s3_bucket import BLOCK, Bucket

AT_ONCE = 8  # objects fetched side by side
RESERVE = 1 << 30  # bytes of the disk that stay free for the shards and everybody else


@contextmanager
def spooled(url: str, folder: Path, store: StoreParams, columns: Columns | None = None) -> Iterator[Path]:
    """A local copy of the source `url` (a prefix, or a manifest with the images it names) beneath `folder`, for as
    long as the block lasts. `store` says how S3 is spoken to; `columns` are the manifest's.

    One at a time in a project; what a killed one left is removed first. Raises DataError for a source that is empty
    or has names no file can have, or while another is taken in; DiskFull, S3Error.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "wb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # it may fetch for hours: nobody should wait without knowing
            raise DataError(
                f"another process takes in a source from S3 (it holds {folder / 'lock'}): start again when it is done"
            ) from None
        for left in folder.iterdir():
            if left.is_dir():
                shutil.rmtree(left)
        place = folder / uuid.uuid4().hex
        try:
            yield _fetch_all(Bucket(url, store.endpoint_url), place, columns)
        except DataError as error:  # the user knows the address, not the copy
            raise DataError(str(error).replace(str(place), url.rpartition("/")[0])) from None
        finally:
            shutil.rmtree(place, ignore_errors=True)


def _fetch_all(source: Bucket, place: Path, columns: Columns | None) -> Path:
    name = source.prefix.rstrip("/")
    last = PurePosixPath(name).name or source.name
    if PurePosixPath(name).suffix.lower() in READERS and (found := source.get(name)) is not None:
        found["Body"].close()
        _fetch(source, [(name, place / last, found["ContentLength"])])
        _fetch(source, _named(source, place / last, name.rpartition("/")[0], columns))
        return place / last
    (place / last).mkdir(parents=True)
    objects = [
        (entry["Key"], place / last / relative, entry["Size"])
        for entry in source.objects(source.prefix)
        if (relative := _file_name(entry["Key"].removeprefix(source.prefix)))
    ]
    if not objects:
        raise DataError(
            f"there is nothing under {source.place(source.prefix)}: expected images in class folders, or a manifest"
        )
    _fetch(source, objects)
    return place / last


def _named(source: Bucket, manifest: Path, prefix: str, columns: Columns | None) -> list[tuple[str, Path, int]]:
    """The objects whose paths `manifest` writes; one that is not there is found missing by the manifest's reader."""
    wanted = set()
    for path in named_paths(manifest, columns):
        pure = PurePosixPath(path)
        if not pure.is_absolute() and ".." not in pure.parts and pure.parts:
            wanted.add(str(pure))
    start = f"{prefix}/" if prefix else ""
    found = ((entry["Key"].removeprefix(start), entry) for entry in source.objects(start)) if wanted else ()
    return [(entry["Key"], manifest.parent / name, entry["Size"]) for name, entry in found if name in wanted]


def _file_name(name: str) -> str | None:
    """`name` as a relative path; None for what no reader looks at: markers of folders, hidden files and litter."""
    if name.endswith("/"):
        return None
    parts = name.split("/")
    if any(part in ("", ".", "..") or "\0" in part or len(part.encode()) > 255 for part in parts):
        raise DataError(f"the object {without_surrogates(name)[:200]!r} cannot be a file beneath a folder: rename it")
    if any(part.startswith(".") or part.lower() in JUNK for part in parts):
        return None
    return name


def _fetch(source: Bucket, objects: list[tuple[str, Path, int]]) -> None:
    """Bring (name, file, bytes) here. Raises DiskFull before the first when they would not fit."""
    if not objects:
        return
    needed = sum(size for _, _, size in objects)
    there = next(place for place in objects[0][1].parents if place.exists())
    free = shutil.disk_usage(there).free
    if needed + RESERVE > free:
        raise DiskFull(
            f"disk full (disk_full): the source has {needed / 1e6:,.1f} MB, and {free / 1e6:,.1f} MB are free beneath "
            f"{there}, of which {RESERVE / 1e6:,.0f} stay in reserve. Nothing was taken. Make room, or ingest it in "
            "parts: each folder of it on its own."
        )
    with disk_full_is_said(there, needed), ThreadPoolExecutor(AT_ONCE) as pool:
        for some in _some(objects, 64 * AT_ONCE):  # not all at once: an error ends it soon
            for _ in pool.map(lambda one: _bring(source, one[0], one[1]), some):
                pass


def _bring(source: Bucket, name: str, file: Path) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        stream = source.stream(name)
        if stream is not None:  # else removed since it was listed
            with stream, open(file, "xb") as copy:
                shutil.copyfileobj(stream, copy, BLOCK)
    except (FileExistsError, NotADirectoryError, IsADirectoryError):
        raise DataError(f"{source.place(name)} is both an object and a folder of others: rename one") from None


def _some(items: Iterable, count: int) -> Iterator[list]:
    left = iter(items)
    while some := list(islice(left, count)):
        yield some
