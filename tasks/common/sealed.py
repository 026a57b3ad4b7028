"""Cache entries with a seal: the sha256 of the entry, in a file next to it.

An entry without its seal, or with another one's, is thrown away and made again: neither file is believed alone. So a
flipped byte in a cache costs time and changes no result, and a process that was killed between the two leaves nothing
half done.
"""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from tasks.common.errors import DamagedFile
from tasks.common.files import atomic_path, sha256_file, write_json
from tasks.common.verified import open_verified

SEAL = ".sha256"
DIGEST = re.compile(r"[0-9a-f]{64}")

logger = logging.getLogger("evergreen.cache")


@contextmanager
def sealed_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path; on success it becomes the entry `path`, and its seal is written."""
    with atomic_path(path) as temporary:
        yield temporary
        digest = sha256_file(temporary)
    with atomic_path(_seal(path)) as temporary:
        temporary.write_text(digest + "\n")


def write_sealed_json(path: Path, value: Any) -> None:
    """Write `value` as JSON, sealed."""
    with sealed_path(path) as temporary:
        write_json(temporary, value)


def open_sealed(path: Path) -> BinaryIO | None:
    """The entry `path`, open at its start and undamaged; None if it is missing, or was damaged and is deleted now."""
    if not path.is_file():
        return None
    if not _seal(path).is_file():  # its writer was killed, or is a version that made no seals
        return None
    try:
        return open_verified(path, _digest(path))
    except DamagedFile:
        logger.warning("%s was damaged: it is thrown away and made again", path)
        drop(path)
    except FileNotFoundError:  # another process has just deleted it
        pass
    return None


def read_sealed(path: Path) -> bytes | None:
    """The content of the entry `path`; None as in `open_sealed`."""
    if (file := open_sealed(path)) is None:
        return None
    with file:
        return file.read()


def seal_of(path: Path) -> str:
    """The sha256 of the entry `path`, which `open_sealed` has found undamaged."""
    return _digest(path)


def drop(path: Path) -> None:
    """Delete an entry and its seal."""
    path.unlink(missing_ok=True)
    _seal(path).unlink(missing_ok=True)


def is_damaged(path: Path) -> bool:
    """Does `path` have a seal that is not its own? An entry without one does not count: nothing reads it."""
    if not _seal(path).is_file():
        return False
    try:
        open_verified(path, _digest(path)).close()
    except DamagedFile:
        return True
    return False


def _seal(path: Path) -> Path:
    return path.with_suffix(SEAL)


def _digest(path: Path) -> str:
    """What the seal says; a text that no file has as its sha256 where the seal is missing or damaged."""
    found = _seal(path).read_bytes().strip().decode(errors="replace") if _seal(path).is_file() else ""
    return found if DIGEST.fullmatch(found) else "no seal"
