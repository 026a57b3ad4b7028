"""Named blobs that cannot be half written, and their implementation in a local folder.

Eight primitives are all that a place must offer to hold releases and logs (`tasks.releases.store` and
`monitoring.log.production_log` build everything else on them): `open`, `read`, `create`, `swap`, `list`, `about`,
`remove`, and `sweep` for what killed writers left.
A key is a relative path of letters, digits, `.`, `_` and `-`; content is bytes or a file to copy; a token names one
content of one key.

`create` and `swap` raise `Conflict` where the key holds anything else, or another error that leaves it open whether
the write happened: the caller reads back. After a lost reply even a Conflict may mean "written, and replaced by
others since": whom that matters keeps a history, as promotions do (`tasks.releases.store`).
"""

import errno
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, Protocol

from tasks.common.errors import EvergreenError

PART = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")  # of a key: no leading dot, so neither `..` nor a hidden file
Content = bytes | Path


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
