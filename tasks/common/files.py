"""Small file helpers every stage shares: atomic writes, content keys, JSON.

DVC outputs are hardlinks into its cache: writing one in place would corrupt an older release.
So nothing here ever opens an existing file for writing; every write is temp + fsync + rename.

A temporary file or folder is locked (flock) by its writer while that lives, so `sweep` can tell what a killed one left.
"""

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from tasks.common.errors import EvergreenError
from tasks.common.failpoints import failpoint


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is fsynced and renamed onto `path`.

    On any exception the temporary file is removed and `path` keeps its old content.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, handle = _temporary_file(path)
    try:
        yield temporary
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        failpoint("files.temporary")
        os.replace(temporary, path)
        failpoint("files.placed")
        fsync_dir(path.parent)
    finally:
        temporary.unlink(missing_ok=True)
        os.close(handle)


@contextmanager
def atomic_dir(path: Path | str) -> Iterator[Path]:
    """Yield a fresh temporary directory that replaces `path` as a whole on success.

    Killed while it is replaced, `path` is as before, absent or as after, never a part of either. What killed writers
    of this very `path` left beside it is removed first: it may be large, and far from the project.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
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


def _temporary_file(path: Path) -> tuple[Path, int]:
    """A new locked file beside `path`, and the descriptor whose end frees it."""
    while True:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        os.fchmod(handle, 0o644)  # mkstemp's 0600 would make shared caches unreadable for others
        fcntl.flock(handle, fcntl.LOCK_EX)
        if os.fstat(handle).st_nlink:
            return Path(name), handle
        os.close(handle)  # a sweep came between


def _temporary_dir(path: Path) -> tuple[Path, int]:
    while True:
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
        try:
            handle = os.open(temporary, os.O_RDONLY | os.O_DIRECTORY)
            fcntl.flock(handle, fcntl.LOCK_EX)
            temporary.chmod(0o755)
            return temporary, handle
        except FileNotFoundError:  # a sweep came between
            continue


def sweep(folder: Path, pattern: str = "**/.*.tmp") -> int:
    """Remove the temporary files and folders beneath `folder` whose writers are dead; how many."""
    removed = 0
    for path in list(folder.glob(pattern)):
        try:
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        except OSError:  # gone by now, or a link: not ours
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
            removed += 1
        except BlockingIOError:
            pass  # its writer lives
        finally:
            os.close(handle)
    return removed


def wait_for_lock(lock: IO | int, seconds: float, what: str, kind: int = fcntl.LOCK_EX) -> None:
    """Take the flock of the open file `lock`; a dead holder's is free at once. `what` is locked, as a person says it.

    kind: fcntl.LOCK_EX or fcntl.LOCK_SH. Raises EvergreenError when a living process holds it longer than `seconds`.
    """
    deadline, pause = time.monotonic() + seconds, 0.001
    while True:
        try:
            fcntl.flock(lock, kind | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise EvergreenError(
                    f"{what} has been locked by another process for {seconds:g} s, which should take far less: look "
                    "for one that hangs or was stopped (`ps`), end it, and start again"
                ) from None
            time.sleep(pause)
            pause = min(2 * pause, 0.05)


def fsync_dir(path: Path) -> None:
    """Make a rename in `path` durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path | str, value: Any) -> None:
    """Write `value` as stable, readable JSON (sorted keys, NaN refused), atomically."""
    text = json.dumps(value, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False)
    with atomic_path(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def parse_yaml(text: str) -> Any:
    """`text` as plain YAML, by the C parser where PyYAML has it: seven times faster. Raises yaml.YAMLError."""
    import yaml

    return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def read_json(path: Path | str) -> Any:
    return json.loads(Path(path).read_text(encoding="utf-8"))


def sha256_bytes(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path | str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def content_key(*parts: Any) -> str:
    """sha256 over `parts` (JSON values): the name of a cache entry. Refuses what JSON cannot hold."""
    text = json.dumps(parts, sort_keys=True, allow_nan=False, separators=(",", ":"))
    return sha256_bytes(text.encode())
