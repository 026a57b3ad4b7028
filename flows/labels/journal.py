"""Answers that people gave about samples, kept outside git until they are taken as one batch.

    .evergreen/labels/journal.jsonl   one answer a line; appended to, or written again without one that was taken back
    .evergreen/labels/taking.jsonl    the answers that are being taken: a killed `finish` goes on with exactly these
    .evergreen/labels/unplaced.jsonl  answers about samples that data/ did not hold then: each `finish` tries them again

An answer is on disk when `record` returns. Processes may record at the same time. Of a killed writer's last answer
either the whole line is there or a torn one, which counts as never given.
"""

import fcntl
import json
import os
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from tasks.common.failpoints import failpoint
from tasks.common.files import atomic_path, fsync_dir, locked, wait_for_lock
from tasks.common.paths import state_dir
from tasks.common.private import make_folder, open_private

LOCK_SECONDS = 60.0
IDLE_SECONDS = 15 * 60.0  # answers that wait so long are taken without being asked


@dataclass(frozen=True)
class Answer:
    """What one person says about one sample of the data set."""

    id: str
    label: str | list[str] | None = None
    exclude: bool = False  # instead of a label
    annotator: str | None = None
    role: str = "annotator"  # one of tasks.common.schemas.ROLES
    at: datetime | None = None  # None: now, when it is recorded or taken
    why: str = ""
    model_version: str | None = None  # whose answer the person saw
    retracts: str | None = None  # key of an annotation that no longer counts (tasks.labels.annotations)


def record(root: Path, answers: Sequence[Answer]) -> None:
    """Append `answers` to the journal, durably."""
    if not answers:
        return
    now = datetime.now(UTC)
    lines = "".join(_line(replace(answer, at=answer.at or now)) for answer in answers)
    folder = _folder(root)
    new = not (folder / "journal.jsonl").exists()
    with open(folder / "lock", "a", opener=open_private) as lock:
        wait_for_lock(lock, LOCK_SECONDS, "the journal of labels", fcntl.LOCK_EX)
        handle = open_private(folder / "journal.jsonl", os.O_RDWR | os.O_CREAT | os.O_APPEND)
        try:
            torn = (end := os.lseek(handle, 0, os.SEEK_END)) and os.pread(handle, 1, end - 1) != b"\n"
            failpoint("labels.recording")
            _write(handle, ("\n" if torn else "").encode() + lines.encode())
            os.fsync(handle)
        finally:
            os.close(handle)
    if new:
        fsync_dir(folder)
    failpoint("labels.recorded")


def pending(root: Path) -> list[Answer]:
    """The answers that were not taken yet, in the order they were given."""
    return [answer for name in ("taking.jsonl", "journal.jsonl") for answer in _read(_folder(root) / name)]


def withdraw(root: Path, answer: Answer) -> bool:
    """Take `answer`, as `pending` returns it, back out of the journal; False if it is being taken, or was."""
    file = _folder(root) / "journal.jsonl"
    with locked(_folder(root) / "lock", LOCK_SECONDS, "the journal of labels"):
        lines = file.read_bytes().split(b"\n") if file.is_file() else []
        at = next((n for n in reversed(range(len(lines))) if _answers([lines[n]]) == [answer]), None)
        if at is None:
            return False
        with atomic_path(file) as temporary:
            temporary.write_bytes(b"\n".join([*lines[:at], *lines[at + 1 :]]))
    return True


def idle_seconds(root: Path) -> float | None:
    """Seconds since the last answer was recorded; None if none waits."""
    ages = [time.time() - file.stat().st_mtime for file in _files(root) if file.is_file()]
    return min(ages, default=None)


def start_taking(root: Path) -> list[Answer]:
    """Set the pending answers aside and return them; after a killed take, those that were set aside then."""
    folder = _folder(root)
    taking, journal = _files(root)
    with locked(folder / "lock", LOCK_SECONDS, "the journal of labels"):
        if not taking.exists() and journal.exists():
            os.replace(journal, taking)
            fsync_dir(folder)
            failpoint("labels.aside")
    return _read(taking)


def end_taking(root: Path) -> None:
    """Delete the answers that `start_taking` returned: they are in the data set."""
    taking, _ = _files(root)
    taking.unlink(missing_ok=True)
    fsync_dir(taking.parent)


def unplaced(root: Path) -> list[Answer]:
    """The answers whose samples data/ did not hold when they were taken: perhaps another branch has them."""
    return _read(_folder(root) / "unplaced.jsonl")


def keep_unplaced(root: Path, answers: Sequence[Answer]) -> None:
    """Keep exactly `answers` as those whose samples data/ does not hold."""
    file = _folder(root) / "unplaced.jsonl"
    if answers:
        with atomic_path(file) as temporary:
            temporary.write_text("".join(map(_line, answers)), encoding="utf-8")
    else:
        file.unlink(missing_ok=True)


def forget_answers(root: Path, ids: Collection[str], blank: Callable[[str], str] = lambda text: text) -> int:
    """Remove answers about the samples `ids`, and `blank` what others say of them; returns how many were removed."""
    count = 0
    with locked(_folder(root) / "lock", LOCK_SECONDS, "the journal of labels"):
        for file in (*_files(root), _folder(root) / "unplaced.jsonl"):
            answers = _read(file)
            kept = [replace(answer, why=blank(answer.why)) for answer in answers if answer.id not in ids]
            if kept != answers:
                count += len(answers) - len(kept)
                with atomic_path(file) as temporary:
                    temporary.write_text("".join(map(_line, kept)), encoding="utf-8")
    return count


def _folder(root: Path) -> Path:
    folder = state_dir(root) / "labels"
    make_folder(folder)
    return folder


def _files(root: Path) -> tuple[Path, Path]:
    return _folder(root) / "taking.jsonl", _folder(root) / "journal.jsonl"


def _line(answer: Answer) -> str:
    return json.dumps(asdict(answer) | {"at": answer.at.isoformat() if answer.at else None}, ensure_ascii=False) + "\n"


def _write(handle: int, content: bytes) -> None:
    while content:
        content = content[os.write(handle, content) :]


def unreadable(root: Path) -> int:
    """How many lines of the journal are damaged. A last line without its end was never acknowledged: not counted."""
    count = 0
    for file in _files(root):
        whole = [line for line in file.read_bytes().split(b"\n")[:-1] if line.strip()] if file.is_file() else []
        count += sum(not _answers([line]) for line in whole)
    return count


def _read(file: Path) -> list[Answer]:
    return _answers(file.read_bytes().split(b"\n")) if file.is_file() else []


def _answers(lines: list[bytes]) -> list[Answer]:
    found = []
    for line in lines:
        try:
            values = json.loads(line)
            at = datetime.fromisoformat(values["at"]) if values["at"] else None
            found.append(Answer(**values | {"at": at}))
        except (ValueError, TypeError, KeyError):  # torn by a kill or a full disk: it was never acknowledged
            continue
    return found
