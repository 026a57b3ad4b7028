"""Named blobs that cannot be half written, and their implementation in a local folder.

Eight primitives are all that a place must offer to hold releases and logs (`tasks.store` and `monitoring.log` build
everything else on them): `open`, `read`, `create`, `swap`, `list`, `about`, `remove`, and `sweep` for what killed
writers left.
A key is a relative path of letters, digits, `.`, `_` and `-`; content is bytes or a file to copy; a token names one
content of one key.

`create` and `swap` raise `Conflict` where the key holds anything else, or another error that leaves it open whether
the write happened: the caller reads back. After a lost reply even a Conflict may mean "written, and replaced by
others since": whom that matters keeps a history, as promotions do (`tasks.store`).
"""

import errno
import fcntl
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Protocol

from tasks.errors import EvergreenError
from tasks.failpoints import failpoint
from tasks.files import fsync_dir, sha256_bytes, sha256_file, wait_for_lock

PART = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")  # of a key: no leading dot, so neither `..` nor a hidden file
Content = bytes | Path
LOCK_SECONDS = 120.0  # a writer holds the folder's lock while it hashes one object and renames a file


class Conflict(Exception):
    """The key holds other content than the caller expects, and not what the caller wanted to write."""


class DiskFull(EvergreenError):
    """No room left for a write. Nothing half written is visible."""

    reason = "disk_full"


class Store(Protocol):
    def open(self, key: str) -> BinaryIO | None:
        """The content of `key` as a stream, to be closed by the caller; None where there is none."""

    def read(self, key: str) -> tuple[bytes, str] | None:
        """The content of `key` and its token; None where there is none."""

    def create(self, key: str, content: Content) -> None:
        """Write `key` once and for all. The same content again is fine; raises Conflict for another."""

    def swap(self, key: str, content: Content, expected: str | None) -> str:
        """Replace the content that has token `expected` (None: no content yet), atomically, and return the new
        token. Raises Conflict when the key holds anything else."""

    def list(self, prefix: str) -> Iterator[str]:
        """All keys that begin with `prefix`, sorted."""

    def about(self, key: str) -> tuple[int, datetime]:
        """Bytes of the content of `key`, and when it was put there (UTC). Raises an error where there is none."""

    def remove(self, key: str) -> None:
        """Make `key` absent. Fine where it is absent already."""

    def sweep(self) -> int:
        """Remove what killed writers left unfinished; the number of things removed."""


def check_key(key: str) -> str:
    """`key`, if it is one. Raises EvergreenError for absolute paths, `..`, hidden parts and odd characters."""
    if len(key) > 500 or not all(PART.fullmatch(part) for part in key.split("/")):
        raise EvergreenError(
            f"{key[:200]!r} cannot name anything in a release store: expected parts of letters, digits, '.', '_' "
            "and '-' (no leading dot) joined by '/', 500 characters at most"
        )
    return key


def without_secrets(url: str) -> str:
    """`url` as a message may show it: no user, no password, no query."""
    scheme, _, rest = url.partition("://")
    place = rest.partition("?")[0]
    return f"{scheme}://{place.rpartition('@')[2]}" if rest else url


class LocalStore:
    """A folder. One flock serialises writers of all processes; files appear by rename, whole and fsynced.

    Temporary files lie in `.tmp`, each locked by its writer while it lives: a lock that can be taken marks what
    a killed writer left. The token is the sha256 of the content.
    """

    def __init__(self, root: Path):
        self.root = root.resolve()  # the folder itself may be a link, nothing beneath it
        self._tmp = self.root / ".tmp"
        with disk_full_is_said(self.root, 0):
            _make_dirs(self._tmp)

    def open(self, key: str) -> BinaryIO | None:
        try:
            return os.fdopen(os.open(self._path(key), os.O_RDONLY | os.O_NOFOLLOW), "rb")
        except FileNotFoundError:
            return None

    def read(self, key: str) -> tuple[bytes, str] | None:
        if (file := self.open(key)) is None:
            return None
        with file:
            data = file.read()
        return data, sha256_bytes(data)

    def create(self, key: str, content: Content) -> None:
        path = self._path(key)
        if path.is_file():  # the cheap way out when an upload is repeated: nothing is copied
            if sha256_file(path) != _sha256(content):
                raise Conflict(key)
            return
        with disk_full_is_said(self.root, _size(content)), self._temporary(content) as temporary, self._lock():
            if not path.exists():
                self._place(temporary, path)
            elif sha256_file(path) != sha256_file(temporary):
                raise Conflict(key)

    def swap(self, key: str, content: Content, expected: str | None) -> str:
        path = self._path(key)
        with disk_full_is_said(self.root, _size(content)), self._temporary(content) as temporary:
            token = sha256_file(temporary)
            with self._lock():
                if (sha256_file(path) if path.is_file() else None) != expected:
                    raise Conflict(key)
                self._place(temporary, path)
        return token

    def list(self, prefix: str) -> Iterator[str]:
        folder = prefix.rpartition("/")[0]
        start = self._path(folder) if folder else self.root
        found = (Path(at) / name for at, _, names in os.walk(start) if self._tmp != Path(at) for name in names)
        keys = (path.relative_to(self.root).as_posix() for path in found if not path.name.startswith("."))
        yield from sorted(key for key in keys if key.startswith(prefix))

    def about(self, key: str) -> tuple[int, datetime]:
        found = self._path(key).stat()
        return found.st_size, datetime.fromtimestamp(found.st_ctime, UTC)  # of the rename: a copy may keep its mtime

    def remove(self, key: str) -> None:
        path = self._path(key)
        with self._lock():
            path.unlink(missing_ok=True)
        if path.parent.is_dir():
            fsync_dir(path.parent)

    def sweep(self) -> int:
        removed = 0
        for path in self._tmp.iterdir():
            try:
                handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
            except FileNotFoundError:
                continue
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink(missing_ok=True)
                removed += 1
            except BlockingIOError:
                pass  # its writer lives
            finally:
                os.close(handle)
        return removed

    def _path(self, key: str) -> Path:
        path = self.root
        for part in check_key(key).split("/"):
            path = path / part
            if path.is_symlink():
                raise EvergreenError(f"{path} is a link: a release store holds plain files only, remove the link")
        return path

    @contextmanager
    def _lock(self) -> Iterator[None]:
        handle = os.open(self.root / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            wait_for_lock(handle, LOCK_SECONDS, f"the store {self.root}")
            yield
        finally:
            os.close(handle)

    @contextmanager
    def _temporary(self, content: Content) -> Iterator[Path]:
        """A fsynced temporary file with `content`, locked; gone afterwards unless it was renamed."""
        path = self._tmp / uuid.uuid4().hex
        while True:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
            fcntl.flock(handle, fcntl.LOCK_EX)
            if os.fstat(handle).st_nlink:
                break
            os.close(handle)  # a sweep came between open and flock
        try:
            with os.fdopen(handle, "wb") as file:
                if isinstance(content, bytes):
                    file.write(content)
                else:
                    with open(content, "rb") as source:
                        shutil.copyfileobj(source, file, 1 << 20)
                file.flush()
                os.fsync(file.fileno())
                failpoint("store.temporary")
                yield path
        finally:
            path.unlink(missing_ok=True)

    def _place(self, temporary: Path, path: Path) -> None:
        _make_dirs(path.parent)
        os.replace(temporary, path)
        failpoint("store.placed")
        fsync_dir(path.parent)


@contextmanager
def disk_full_is_said(folder: Path, needed: int) -> Iterator[None]:
    """Turn "no space left" (or a used-up quota) into DiskFull: `needed` bytes were to be written beneath `folder`."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        there = next(place for place in (folder, *folder.parents) if place.exists())
        free = shutil.disk_usage(there).free
        raise DiskFull(
            f"disk full (disk_full): {needed / 1e6:,.1f} MB were to be written beneath {folder}, {free / 1e6:,.1f} MB "
            "are free there. Nothing half written stays. Make room (`evergreen gc` shows what may go) or move the "
            "folder to a larger disk, then do it again."
        ) from error


def _make_dirs(folder: Path) -> None:
    """mkdir -p whose every step survives a power cut."""
    if not folder.is_dir():
        _make_dirs(folder.parent)
        folder.mkdir(exist_ok=True)
        fsync_dir(folder.parent)


def _size(content: Content) -> int:
    return len(content) if isinstance(content, bytes) else content.stat().st_size


def _sha256(content: Content) -> str:
    return sha256_bytes(content) if isinstance(content, bytes) else sha256_file(content)
