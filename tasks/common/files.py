"""Small file helpers: atomic writes, locks, content keys, JSON.

DVC outputs are hardlinks into its cache: writing one in place would corrupt an older release.
So nothing here opens an existing file for writing; every write is temp + fsync + rename.

Locks are flocks on open files. The kernel frees the lock of a killed process at once, a child can inherit it with the
descriptor, and it can be shared. The filelock library offers none of the last two, and on a file system without flock
it falls back to a lock file that outlives its holder.

A writer holds a lock on its temporary file or folder, so `sweep` can tell what a killed writer left.
"""

import errno
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from tasks.common.errors import EvergreenError
from tasks.common.failpoints import failpoint
from tasks.common.private import make_folder, open_private, share_folder

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def atomic_path(path: Path | str, tracked: bool = False) -> Iterator[Path]:
    """Yield a temporary path next to `path`; on success it is fsynced and renamed onto `path`.

    tracked: git tracks the file, so it gets the mode that git would give it. All others are private from their first
    byte (tasks.common.private). On any exception the temporary file is removed and `path` keeps its old content.
    """
    path = Path(path)
    make_folder(path.parent)
    temporary, handle = temporary_file(path.parent, path.name, tracked)
    try:
        yield temporary
        fsync_file(temporary)
        failpoint("files.temporary")
        os.replace(temporary, path)
        failpoint("files.placed")
        fsync_dir(path.parent)
    except OSError as error:
        if error.errno in NO_ROOM and error.filename is None:  # a write that failed does not say where
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)
        os.close(handle)


@contextmanager
def atomic_dir(path: Path | str) -> Iterator[Path]:
    """Yield a new temporary folder that replaces `path` as a whole on success.

    A process killed during the replacement leaves `path` as before, absent or as after, never a mixture. Before that,
    what killed writers of this `path` left next to it is removed: it may be large, and far from the project.
    """
    path = Path(path)
    make_folder(path.parent)
    sweep(path.parent, f".{path.name}.*.tmp")
    temporary, handle = _temporary_dir(path)
    aside = temporary.with_name(f"{temporary.name.removesuffix('.tmp')}-old.tmp")
    try:
        yield temporary
        failpoint("files.folder")
        if path.exists():
            os.replace(path, aside)
            failpoint("files.aside")
        try:
            os.replace(temporary, path)
        except BaseException:
            if aside.exists():
                os.replace(aside, path)
            raise
        failpoint("files.folder_placed")
        fsync_dir(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(aside, ignore_errors=True)
        os.close(handle)


def temporary_file(folder: Path, name: str = "", tracked: bool = False) -> tuple[Path, int]:
    """A new locked file in `folder`, named after `name`, and its descriptor: closing that frees the lock."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
    while True:
        path = folder / f".{name}.{uuid.uuid4().hex[:8]}.tmp"
        try:
            handle = os.open(path, flags, 0o666) if tracked else open_private(path, flags)
        except FileExistsError:
            continue
        fcntl.flock(handle, fcntl.LOCK_EX)
        if os.fstat(handle).st_nlink:
            return path, handle
        os.close(handle)  # a sweep removed the file between open and flock


def _temporary_dir(path: Path) -> tuple[Path, int]:
    while True:
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
        try:
            handle = os.open(temporary, os.O_RDONLY | os.O_DIRECTORY)
            fcntl.flock(handle, fcntl.LOCK_EX)
            share_folder(temporary)
            return temporary, handle
        except FileNotFoundError:  # a sweep removed the folder between mkdtemp and flock
            continue


def sweep(folder: Path, pattern: str = "**/.*.tmp") -> int:
    """Remove the temporary files and folders under `folder` whose writers are dead; returns their number."""
    removed = 0
    for path in list(folder.glob(pattern)):
        try:
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        except OSError:  # removed since, or a link, which we never make
            continue
        try:
            if _try_flock(handle):  # else its writer is alive
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
                removed += 1
        finally:
            os.close(handle)
    return removed


@contextmanager
def locked(path: Path, seconds: float, what: str, on_wait: Callable[[], None] | None = None) -> Iterator[int]:
    """Hold the lock file `path`, made if missing, during the block; yields its descriptor.

    on_wait: called once if another process holds the lock. Otherwise as `wait_for_lock`.
    """
    handle = open_private(path, os.O_RDWR | os.O_CREAT)
    try:
        if not _try_flock(handle):
            if on_wait:
                on_wait()
            wait_for_lock(handle, seconds, what)
        yield handle
    finally:
        os.close(handle)


@contextmanager
def try_locked(path: Path) -> Iterator[bool]:
    """Hold the lock file `path`, made if missing, during the block; yields False if another process holds it."""
    handle = open_private(path, os.O_RDWR | os.O_CREAT)
    try:
        yield _try_flock(handle)
    finally:
        os.close(handle)


def wait_for_lock(lock: IO | int, seconds: float, what: str, kind: int = fcntl.LOCK_EX) -> None:
    """Take the flock of the open file `lock`. `what` describes the locked resource in the error message.

    kind: fcntl.LOCK_EX or fcntl.LOCK_SH. The lock of a dead holder is free at once. Raises EvergreenError when a
    living process holds it longer than `seconds`.
    """
    deadline, pause = time.monotonic() + seconds, 0.001
    while not _try_flock(lock, kind):
        if time.monotonic() > deadline:
            raise EvergreenError(
                f"{what} has been locked by another process for {seconds:g} s, which should take far less: look "
                "for one that hangs or was stopped (`ps`), end it, and start again"
            )
        time.sleep(pause)
        pause = min(2 * pause, 0.05)


def _try_flock(lock: IO | int, kind: int = fcntl.LOCK_EX) -> bool:
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def fsync_file(path: Path) -> None:
    """Make the content of file `path` durable."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def fsync_dir(path: Path) -> None:
    """Make a rename in folder `path` durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path | str, value: Any, tracked: bool = False) -> None:
    """Write `value` as stable, readable JSON (sorted keys, NaN refused), atomically. tracked: as `atomic_path`."""
    text = json.dumps(value, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False)
    with atomic_path(path, tracked) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def parse_yaml(text: str) -> Any:
    """`text` as plain YAML, by the C parser where PyYAML has it: seven times faster. Raises yaml.YAMLError."""
    import yaml

    from tasks.common.yaml_bounds import bound_passed

    if problem := bound_passed(text):
        raise yaml.YAMLError(problem)
    return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def read_json(path: Path | str) -> Any:
    """The value in the JSON file `path` (UTF-8). Raises ValueError if it holds none, or one nested too deeply."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError(f"{path} is nested too deeply") from None


def sha256_bytes(data: bytes) -> str:
    """sha256 of `data`, in hex."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path | str) -> str:
    """sha256 of the content of `path`, in hex, without reading the file into memory as a whole."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def content_key(*parts: Any) -> str:
    """sha256 over `parts` (JSON values): the name of a cache entry. Refuses what JSON cannot hold."""
    text = json.dumps(parts, sort_keys=True, allow_nan=False, separators=(",", ":"))
    return sha256_bytes(text.encode())
