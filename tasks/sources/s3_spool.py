"""A source in S3 (`evergreen ingest s3://bucket/prefix`) as a local folder during the ingest.

The readers of tasks.sources.source read a source twice. So its objects are downloaded once, and removed when the
ingest ends. Before the first download we check that the disk can hold them all.
"""

import shutil
import uuid
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path, PurePosixPath

from tasks.common.cells import without_surrogates
from tasks.common.errors import DataError
from tasks.common.files import try_locked
from tasks.common.params import StoreParams
from tasks.common.private import make_folder
from tasks.common.written import tidy
from tasks.sources.manifests import READERS, named_paths
from tasks.sources.records import Columns
from tasks.sources.safe_files import JUNK
from tasks.storage.blobs import DiskFull, raise_disk_full
from tasks.storage.s3_bucket import BLOCK, Bucket

AT_ONCE = 8  # parallel downloads
RESERVE = 1 << 30  # bytes of the disk that stay free for the shards and for other programs


@contextmanager
def spooled(url: str, folder: Path, store: StoreParams, columns: Columns | None = None) -> Iterator[Path]:
    """A local copy of the source `url` under `folder`, which exists during the block.

    url: a prefix, or a manifest whose images are copied too. store: how to reach S3. columns: the manifest's.
    One at a time per project; what a killed one left is removed first. Raises DataError if the source is empty, has
    names that no file can have, or another source is being copied; DiskFull; S3Error.
    """
    make_folder(folder)
    with try_locked(folder / "lock") as mine:
        if not mine:  # a download may take hours: fail rather than wait silently
            raise DataError(
                f"another process is ingesting a source from S3 (it holds {folder / 'lock'}): start again when it ends"
            )
        for left in folder.iterdir():
            if left.is_dir():
                shutil.rmtree(left)
        place = folder / uuid.uuid4().hex
        try:
            yield _fetch_all(Bucket(url, store.endpoint_url), place, columns)
        except DataError as error:  # the user knows the address, not our copy
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
    make_folder(place / last)
    objects = [
        (entry["Key"], place / last / relative, entry["Size"])
        for entry in source.objects(source.prefix)
        if (relative := _file_name(entry["Key"].removeprefix(source.prefix)))
    ]
    if not objects:
        raise DataError(
            f"nothing was found under {source.place(source.prefix)}: expected images in class folders, or a manifest"
        )
    _fetch(source, objects)
    return place / last


def _named(source: Bucket, manifest: Path, prefix: str, columns: Columns | None) -> list[tuple[str, Path, int]]:
    """(name, file, bytes) of the objects that `manifest` lists; its reader reports those that do not exist."""
    wanted = set()
    for path in named_paths(manifest, columns):
        pure = PurePosixPath(tidy(path).replace("\\", "/"))  # as tasks.sources.safe_files finds it later
        if not pure.is_absolute() and ".." not in pure.parts and pure.parts:
            wanted.add(str(pure))
    start = f"{prefix}/" if prefix else ""
    found = ((entry["Key"].removeprefix(start), entry) for entry in source.objects(start)) if wanted else ()
    return [(entry["Key"], manifest.parent / name, entry["Size"]) for name, entry in found if name in wanted]


def _file_name(name: str) -> str | None:
    """`name` as a relative path; None for what readers skip: folder markers, hidden files and JUNK."""
    if name.endswith("/"):
        return None
    parts = name.split("/")
    if any(part in ("", ".", "..") or "\0" in part or len(part.encode()) > 255 for part in parts):
        raise DataError(f"the object {without_surrogates(name)[:200]!r} cannot be a file under a folder: rename it")
    if any(part.startswith(".") or part.lower() in JUNK for part in parts):
        return None
    return name


def _fetch(source: Bucket, objects: list[tuple[str, Path, int]]) -> None:
    """Download each (name, file, bytes). Raises DiskFull before the first download if they would not fit."""
    if not objects:
        return
    needed = sum(size for _, _, size in objects)
    there = next(place for place in objects[0][1].parents if place.exists())
    free = shutil.disk_usage(there).free
    if needed + RESERVE > free:
        raise DiskFull(
            f"disk full (disk_full): the source has {needed / 1e6:,.1f} MB, and {free / 1e6:,.1f} MB are free under "
            f"{there}, of which {RESERVE / 1e6:,.0f} stay in reserve. Nothing was downloaded. Make room, or ingest "
            "its folders one by one."
        )
    with raise_disk_full(there, needed), ThreadPoolExecutor(AT_ONCE) as pool:
        for some in _some(objects, 64 * AT_ONCE):  # in blocks, so that an error ends the download soon
            for _ in pool.map(lambda one: _download(source, one[0], one[1]), some):
                pass


def _download(source: Bucket, name: str, file: Path) -> None:
    try:
        make_folder(file.parent)
        stream = source.stream(name)
        if stream is not None:  # None: removed since it was listed
            with stream, open(file, "xb") as copy:
                shutil.copyfileobj(stream, copy, BLOCK)
    except (FileExistsError, NotADirectoryError, IsADirectoryError):
        raise DataError(f"{source.place(name)} is both an object and a folder of others: rename one") from None


def _some(items: Iterable, count: int) -> Iterator[list]:
    left = iter(items)
    while some := list(islice(left, count)):
        yield some
