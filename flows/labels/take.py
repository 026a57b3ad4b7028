"""Take answers about samples into the data set: one batch of annotations, one commit."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from flows.labels import journal
from flows.labels.journal import Answer
from flows.project.data_commit import commit_data, undone_if_refused
from flows.project.ingest import restored_data
from flows.repo.git import check_repository
from flows.repo.pipeline import record_data
from tasks.common.errors import EvergreenError
from tasks.common.failpoints import failpoint
from tasks.common.files import write_json
from tasks.common.schemas import ROLES
from tasks.dataset.shards import live_shards, read_columns, read_task, read_tombstones
from tasks.ingest.lock import data_files, data_lock
from tasks.labels.annotations import annotation_key, by_sample, decide, read_annotations, retracted_keys, standing
from tasks.labels.storing import write_annotations


@dataclass(frozen=True)
class Taken:
    """What became of some answers."""

    batch: str | None = None  # None: nothing new
    added: int = 0
    repeated: int = 0  # the same person said the same before
    unknown: list[str] = field(default_factory=list)  # ids that the data set does not hold
    labels: int = 0  # of production, new in the log
    images: str = ""  # what became of the images of production

    def sentence(self) -> str:
        """One sentence for the terminal and the commit."""
        parts = [f"took {self.added} {'answer' if self.added == 1 else 'answers'} about samples"]
        if self.repeated:
            parts.append(f"{self.repeated} known already")
        if self.unknown:
            parts.append(f"{len(self.unknown)} about images that the data set does not hold")
        said = "; ".join([*parts, f"batch {self.batch}" if self.batch else "no batch was written"])
        if not self.labels and not self.images:
            return said
        new = f"took {self.labels} {'label' if self.labels == 1 else 'labels'} of production"
        about = said if self.added or self.repeated or self.unknown else ""
        return "; ".join(filter(None, [new, self.images, about]))


@dataclass(frozen=True)
class Waiting:
    """Answers that were kept for `finish`."""

    added: int
    waiting: int  # with those given before

    def sentence(self) -> str:
        """One sentence for the terminal."""
        before = f" with {self.waiting - self.added} others" if self.waiting > self.added else ""
        kept = f"kept {self.added} {'answer' if self.added == 1 else 'answers'}"
        return (
            f"{kept}{before}: `evergreen finish` takes them as one batch; `evergreen up` does it by itself "
            f"{journal.IDLE_SECONDS / 60:.0f} minutes after the last answer"
        )


def take_later(root: Path, answers: Sequence[Answer]) -> Waiting:
    """Keep `answers` in the journal, where they are safe, for the next `finish`. Raises EvergreenError.

    An answer that `finish` could not take is refused now: it would keep the others from being taken.
    """
    task = read_task(root / "data")
    for answer in answers:
        _row(answer, task)
    journal.record(root, answers)
    return Waiting(len(answers), len(journal.pending(root)))


def take(root: Path, answers: Sequence[Answer], *, commit: bool = True, why: str = "") -> Taken:
    """Add `answers` to the data set as one batch of annotations and commit data.dvc; all of them or nothing.

    An answer without a time that repeats its annotator's newest word is not added, nor one that is there already.
    `why` leads the message of the commit. Raises EvergreenError.
    """
    check_repository(root, commit=False)
    restored_data(root)
    with undone_if_refused(root):
        found = _write(root, answers)
        record_data(root)
        failpoint("labels.stored")
        if commit:
            commit_data(root, f"{why}: {found.sentence()}" if why else found.sentence())
    return found


def _write(root: Path, answers: Sequence[Answer]) -> Taken:
    data = root / "data"
    with data_lock(root) as left:
        known = _known_ids(data, {answer.id for answer in answers})
        task, now = read_task(data), datetime.now(UTC)
        told = [_row(answer, task) for answer in answers if answer.id in known]
        rows = _new_rows(read_annotations(data, read_tombstones(root)), told, now)
        write_json(left, sorted(data_files(data)))
        batch = write_annotations(data, rows)
        left.unlink()
        failpoint("labels.written")
    unknown = sorted({answer.id for answer in answers} - known)
    return Taken(batch, len(rows), len(told) - len(rows), unknown)


def _known_ids(data: Path, ids: set[str]) -> set[str]:
    wanted = pa.array(sorted(ids), pa.string())
    found: set[str] = set()
    for shard in live_shards(data):
        column = read_columns(shard.path, ["id"])["id"]
        found |= set(column.filter(pc.is_in(column, wanted)).to_pylist())
    return found


def _row(answer: Answer, task: str) -> dict:
    """An annotation without its batch. Raises EvergreenError for an answer that says nothing or too much."""
    label, kinds = answer.label, (str,) if task == "multiclass" else (list, tuple)
    said = (label is not None) + answer.exclude + (answer.retracts is not None)
    if said != 1 or answer.role not in ROLES or (label is not None and not isinstance(label, kinds)):
        raise EvergreenError(
            f"an answer about {answer.id[:12]} is not one: label {label!r}, exclude {answer.exclude}, role "
            f"{answer.role!r}; expected a label ({task}) or an exclusion, and a role of {', '.join(ROLES)}"
        )
    return {
        "id": answer.id,
        "label": list(label) if isinstance(label, tuple) else label,
        "exclude": answer.exclude,
        "annotator": answer.annotator,
        "role": answer.role,
        "at": answer.at,
        "why": answer.why,
        "model_version": answer.model_version,
        "retracts": answer.retracts,
    }


def _new_rows(table: pa.Table, rows: list[dict], now: datetime) -> list[dict]:
    """`rows` with a time, but for those that repeat the newest word of their annotator or are stored already.

    table: the annotations that count. What only a tombstoned batch says can be said again.
    """
    earlier = by_sample(table.filter(pc.is_in(table["id"], pa.array(sorted({row["id"] for row in rows}), pa.string()))))
    new = []
    for row in rows:
        said = earlier.setdefault(row["id"], [])
        if not _repeats(row, said):
            new.append(row | {"at": row["at"] or now})
            said.append(new[-1] | {"seq": 0, "batch": ""})
    return new


def _repeats(row: dict, said: list[dict]) -> bool:
    about = ("label", "exclude", "annotator", "role", "retracts")
    same = [one for one in said if all(one[name] == row[name] for name in about)]
    if row["at"] is not None:
        return any(one["at"] == row["at"] for one in same)
    if row["retracts"]:
        gone = retracted_keys(said)
        return any(annotation_key(one) not in gone for one in same)
    mine = [one for one in standing(said) if (one["annotator"], one["role"]) == (row["annotator"], row["role"])]
    newest = max(mine, key=lambda one: (one["at"] is not None, one["at"]), default=None)
    if newest is None or newest not in same:
        return False
    decision = decide(None, said)
    return row["role"] != "reviewer" or (newest in decision.deciding and not decision.disputed)
