"""Temporary folders named after their process, so that those of killed processes can be removed."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

SOCKETS = "/tmp"  # for Ray's sockets: their paths may have 103 characters, and Ray adds 62 of them


@contextmanager
def scratch_folder(prefix: str, place: str | None = None) -> Iterator[Path]:
    """A folder of `new_scratch` that is removed at the end of the block."""
    folder = new_scratch(prefix, place)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def new_scratch(prefix: str, place: str | None = None) -> Path:
    """A new private folder in `place` (default: the system's for temporary files).

    If this process is killed, the next one that makes such a folder removes it.
    """
    place = place or tempfile.gettempdir()
    _sweep(prefix, Path(place))
    return Path(tempfile.mkdtemp(prefix=f"{prefix}{os.getpid()}-", dir=place))


def _sweep(prefix: str, place: Path) -> None:
    """Remove the folders `<prefix><pid>-...` of this user whose process is gone."""
    for folder in place.glob(f"{prefix}*-*"):
        pid = folder.name.removeprefix(prefix).partition("-")[0]
        with suppress(OSError):
            if pid.isdigit() and not _alive(int(pid)) and folder.lstat().st_uid == os.getuid():
                shutil.rmtree(folder, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
