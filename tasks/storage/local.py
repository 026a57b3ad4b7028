"""Blobs in a local folder, written by temporary file and rename."""

import fcntl
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from tasks.common.errors import EvergreenError
from tasks.common.failpoints import failpoint
from tasks.common.files import fsync_dir, sha256_bytes, sha256_file, wait_for_lock
from tasks.storage.blobs import Conflict, Content, check_key, disk_full_is_said

LOCK_SECONDS = 120.0  # a writer holds the folder's lock while it hashes one object and renames a file


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
