"""Read files whose digest is known, and hash them while doing so.

A flipped byte changes no name, time or inode, so nothing but the content says that a file is whole. Each process
therefore hashes what it reads, once: a file that the process finds replaced or rewritten is hashed again. Hashing and
reading share one open file, so no other file can take its place in between.
"""

import hashlib
import os
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

from tasks.common.errors import DamagedFile

HASHED = 1 << 16  # files whose digest a process remembers


@dataclass(frozen=True)
class _Opened:
    """An open file. Equal while the process sees the same unchanged file; `handle` does not count."""

    path: str
    identity: tuple[int, ...]
    handle: BinaryIO = field(compare=False)


def open_verified(path: Path | str, digest: str) -> BinaryIO:
    """Open `path` at its start, after its sha256 was found to begin with `digest`. Raises DamagedFile."""
    file = open(path, "rb")  # noqa: SIM115 (the caller closes it)
    try:
        check_opened(file, path, digest)
        return file
    except BaseException:
        file.close()
        raise


def check_opened(file: BinaryIO, path: Path | str, digest: str) -> None:
    """Raise DamagedFile unless the sha256 of the open `file` begins with `digest`; leaves it at its start."""
    file.seek(0)
    if not (found := _sha256(_opened(path, file))).startswith(digest):
        raise DamagedFile(path, digest, found)
    file.seek(0)


def open_named(path: Path | str) -> BinaryIO:
    """As `open_verified`, for a file that is named by the sha256 of its content, or by the beginning of it."""
    return open_verified(path, Path(path).stem)


def read_verified(path: Path | str, digest: str) -> bytes:
    """The content of `path`, whose sha256 begins with `digest`. Raises DamagedFile."""
    with open(path, "rb") as file:
        content = file.read()
    if not (found := hashlib.sha256(content).hexdigest()).startswith(digest):
        raise DamagedFile(path, digest, found)
    return content


def read_named(path: Path | str) -> bytes:
    """As `read_verified`, for a file that is named by the sha256 of its content, or by the beginning of it."""
    return read_verified(path, Path(path).stem)


def check_named(path: Path | str) -> None:
    """Raise DamagedFile if `path` is not named by the sha256 of its content."""
    open_named(path).close()


def _opened(path: Path | str, file: BinaryIO) -> _Opened:
    about = os.fstat(file.fileno())
    identity = (about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns)
    return _Opened(str(path), identity, file)


@lru_cache(maxsize=HASHED)
def _sha256(opened: _Opened) -> str:
    return hashlib.file_digest(opened.handle, "sha256").hexdigest()
