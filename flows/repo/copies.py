"""Copies that lie where no later command looks: exports, restored versions, backups, captures.

    .evergreen/copies.jsonl    one copy a line: {kind, path, at}; only ever appended to

`evergreen forget` cleans or names them.
"""

import json
import os
import platform
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from tasks.common.checks import Frozen
from tasks.common.files import fsync_dir, locked
from tasks.common.paths import state_dir
from tasks.common.private import open_private

FILE = "copies.jsonl"
LOCK_SECONDS = 60.0


class Copy(Frozen):
    """One file or folder that a command wrote.

    kind: "queue" (samples to label), "version" (restored), "backup", "model" (exported), "captures" (of devices).
    """

    kind: str
    path: str  # absolute, or s3://bucket/prefix of captures
    at: str  # UTC, ISO 8601
    host: str = ""  # the machine; "": of a version that did not say it


def record_copies(root: Path, kind: str, paths: Iterable[Path | str]) -> None:
    """Remember that `paths` were written, durably; what is known already is not written again."""
    known = {(copy.kind, copy.path) for copy in copies(root)}
    now = datetime.now(UTC).isoformat(timespec="seconds")
    new = [Copy(kind=kind, path=_absolute(path), at=now, host=platform.node()) for path in paths]
    lines = [copy.model_dump_json() + "\n" for copy in new if (copy.kind, copy.path) not in known]
    if not lines:
        return
    file = state_dir(root) / FILE
    file.parent.mkdir(parents=True, exist_ok=True)
    with locked(file.with_suffix(".lock"), LOCK_SECONDS, "the list of copies"):
        with open(open_private(file, os.O_RDWR | os.O_CREAT | os.O_APPEND), "a+b") as out:
            end = out.seek(0, os.SEEK_END)
            torn = end and os.pread(out.fileno(), 1, end - 1) != b"\n"
            out.write(("\n" if torn else "").encode() + "".join(lines).encode())
            out.flush()
            os.fsync(out.fileno())
        fsync_dir(file.parent)


def _absolute(path: Path | str) -> str:
    return str(path) if "://" in str(path) else str(Path(path).absolute())


def copies(root: Path) -> list[Copy]:
    """Every copy that was recorded, oldest first; a torn line is a command that was killed."""
    file = state_dir(root) / FILE
    found = []
    for line in file.read_bytes().splitlines() if file.is_file() else []:
        try:
            found.append(Copy(**json.loads(line)))
        except (ValueError, TypeError):
            continue
    return found
