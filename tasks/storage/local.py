"""A store in a local folder, written by temporary file and rename."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from tasks.common.errors import EvergreenError
from tasks.common.failpoints import failpoint
from tasks.common.files import fsync_dir, locked, sha256_bytes, sha256_file, sweep, temporary_file
from tasks.common.private import make_folder
from tasks.storage.blobs import Conflict, Content, check_key, content_size, content_token, raise_disk_full

LOCK_SECONDS = 120.0  # a writer holds the folder's lock while it hashes one object and renames a file


class LocalStore:
    """A `Store` in a folder. One flock serialises the writers of all processes; files appear by rename, fsynced.

    Temporary files lie in `.tmp`. Each writer locks its own while it lives, so `sweep` knows what killed writers left.
    """

    def __init__(self, root: Path):
        self.root = root.resolve()  # the folder itself may be a link, but nothing under it
        self._tmp = self.root / ".tmp"
        with raise_disk_full(self.root, 0):
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
        if path.is_file():  # a repeated upload copies nothing
            if sha256_file(path) != content_token(content):
                raise Conflict(key)
            return
        with raise_disk_full(self.root, content_size(content)), self._temporary(content) as temporary, self._lock():
            if not path.exists():
                self._place(temporary, path)
            elif sha256_file(path) != sha256_file(temporary):
                raise Conflict(key)

    def swap(self, key: str, content: Content, expected: str | None) -> str:
        path = self._path(key)
        with raise_disk_full(self.root, content_size(content)), self._temporary(content) as temporary:
            token = sha256_file(temporary)
            with self._lock():
                if (sha256_file(path) if path.is_file() else None) != expected:
                    raise Conflict(key)
                self._place(temporary, path)
        return token

    def list(self, prefix: str) -> Iterator[str]:
        folder = prefix.rpartition("/")[0]
        start = self._path(folder) if folder else self.root
        own, temporary = len(str(self.root)) + 1, str(self._tmp)
        walked = ((at[own:], names) for at, _, names in os.walk(start) if at != temporary)
        found = (f"{at}/{name}" if at else name for at, names in walked for name in names if not name.startswith("."))
        yield from sorted(key for key in found if key.startswith(prefix))

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
        return sweep(self._tmp, "*")

    def _path(self, key: str) -> Path:
        path = self.root
        for part in check_key(key).split("/"):
            path = path / part
            if path.is_symlink():
                raise EvergreenError(f"{path} is a link: a release store holds plain files only, remove the link")
        return path

    def _lock(self):
        return locked(self.root / ".lock", LOCK_SECONDS, f"the store {self.root}")

    @contextmanager
    def _temporary(self, content: Content) -> Iterator[Path]:
        """A fsynced and locked temporary file with `content`, removed afterwards unless it was renamed."""
        path, handle = temporary_file(self._tmp)
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
        make_folder(folder)
        fsync_dir(folder.parent)
