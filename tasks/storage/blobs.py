"""The contract of a store: named blobs that cannot be half written.

`tasks.releases.store` and `monitoring.log.production_log` build everything else on the eight methods of `Store`.
`LocalStore` (a folder) and `S3Store` (a prefix of a bucket) implement it.

A key is a relative path of letters, digits, `.`, `_` and `-`. Content is bytes or a file to copy. A token names one
content of one key: it is the sha256 of the content.
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
from tasks.common.files import sha256_bytes, sha256_file

KEY_PART = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")  # no leading dot, so neither `..` nor a hidden file
Content = bytes | Path


class Conflict(Exception):
    """The key holds other content than the caller expects, and not what the caller wanted to write."""


class DiskFull(EvergreenError):
    """No room is left for a write. Nothing half written is visible."""

    reason = "disk_full"


class Store(Protocol):
    """Bytes by key, shared by processes and, in S3, by machines.

    `create` and `swap` raise `Conflict` when the key holds anything else. Any other error leaves it open whether the
    write happened: the caller reads the key back. After a lost reply even a Conflict may mean "written, and replaced
    by others since": a caller that must know keeps a history, as promotions do (`tasks.releases.store`).
    """

    def open(self, key: str) -> BinaryIO | None:
        """The content of `key` as a stream that the caller closes; None if the key is absent."""

    def read(self, key: str) -> tuple[bytes, str] | None:
        """The content of `key` and its token; None if the key is absent."""

    def create(self, key: str, content: Content) -> None:
        """Write `key` once. Writing the same content again is fine; raises Conflict for other content."""

    def swap(self, key: str, content: Content, expected: str | None) -> str:
        """Atomically replace the content with token `expected` (None: no content yet); returns the new token.

        Raises Conflict when the key holds anything else.
        """

    def list(self, prefix: str) -> Iterator[str]:
        """All keys that begin with `prefix`, sorted."""

    def about(self, key: str) -> tuple[int, datetime]:
        """Bytes of the content of `key`, and when it was put there (UTC). Raises an error if the key is absent."""

    def remove(self, key: str) -> None:
        """Make `key` absent. Removing an absent key is fine."""

    def sweep(self) -> int:
        """Remove what killed writers left unfinished; returns the number of things removed."""


def check_key(key: str) -> str:
    """`key`, if it is valid. Raises EvergreenError for absolute paths, `..`, hidden parts and odd characters."""
    if len(key) > 500 or not all(KEY_PART.fullmatch(part) for part in key.split("/")):
        raise EvergreenError(
            f"{key[:200]!r} cannot name anything in a release store: expected parts of letters, digits, '.', '_' "
            "and '-' (no leading dot) joined by '/', 500 characters at most"
        )
    return key


def content_size(content: Content) -> int:
    """Bytes of `content`."""
    return len(content) if isinstance(content, bytes) else content.stat().st_size


def content_token(content: Content) -> str:
    """The token of `content`: its sha256."""
    return sha256_bytes(content) if isinstance(content, bytes) else sha256_file(content)


def without_secrets(url: str) -> str:
    """`url` for a message: without user, password and query."""
    scheme, _, rest = url.partition("://")
    place = rest.partition("?")[0]
    return f"{scheme}://{place.rpartition('@')[2]}" if rest else url


@contextmanager
def raise_disk_full(folder: Path, needed: int) -> Iterator[None]:
    """Turn ENOSPC and EDQUOT into DiskFull, for a block that writes `needed` bytes under `folder`."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        existing = next(place for place in (folder, *folder.parents) if place.exists())
        free = shutil.disk_usage(existing).free
        raise DiskFull(
            f"disk full (disk_full): writing {needed / 1e6:,.1f} MB under {folder} failed, where {free / 1e6:,.1f} MB "
            "are free. Nothing half written is left. Make room (`evergreen gc` shows what can go) or move the folder "
            "to a larger disk, then start again."
        ) from error
