"""Carry out a plan as one commit: one change, and images of production, which are ingested.

The change is written first: it says which model was wrong about them. A killed call is completed by the same call.
"""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from flows.hard_set.candidates import Candidate
from flows.hard_set.plan import Plan, check_reason
from flows.labels.samples import held_ids
from flows.production.labels import LOCATED
from flows.project.data_commit import commit_data, undone_if_refused
from flows.project.ingest import ingest_unrecorded, restored_data
from flows.repo.git import check_repository
from flows.repo.pipeline import record_data
from monitoring.log.production_log import Log, open_log
from tasks.common.errors import EvergreenError
from tasks.common.failpoints import failpoint
from tasks.common.params import load_params
from tasks.common.person import person
from tasks.common.schemas import SLICE, label_type
from tasks.dataset.hard_set import OPPOSITE, WORDS, change_files, erase_changes, membership, read_changes, write_changes
from tasks.dataset.shards import HARD_SET_VERSION, next_seq, raise_schema
from tasks.ingest.lock import data_lock
from tasks.sources.records import Columns

BLOCK = 64  # images in memory at once


@dataclass(frozen=True)
class Changed:
    """What became of a plan."""

    batch: str | None  # of the change; None: nothing changed
    count: int = 0
    what: str = "add"
    without: int = 0  # images of production that could not be taken

    def sentence(self) -> str:
        """One sentence for the terminal and the commit."""
        without = f"; {self.without:,} had no usable image in the log" if self.without else ""
        if self.batch is None:
            return f"the hard set is as it was{without}"
        return f"hard set: {self.count:,} image{'s' * (self.count != 1)} {WORDS[self.what]} ({self.batch}){without}"


def take_plan(root: Path, plan: Plan, why: str, *, origin: str = "chosen", commit: bool = True) -> Changed:
    """Do what `plan` says, as one commit. Where nothing is left to do, a killed call is completed.

    Raises EvergreenError.
    """
    why = check_reason(why)
    check_repository(root, commit=False)
    restored_data(root)
    with undone_if_refused(root):
        if not plan.take:
            _record(root, "hard set: a change that was interrupted", commit)
            return Changed(None)
        found = _change(root, plan, why, origin)
        _record(root, f"{found.sentence()}: {why}", commit)
    return found


def _change(root: Path, plan: Plan, why: str, origin: str) -> Changed:
    data = root / "data"
    held = held_ids(data, [one.id for one in plan.take])
    logged = [one for one in plan.take if one.id not in held and one.at is not None] if plan.what == "add" else []
    with _from_log(root, logged) as (file, found):
        taken = [one for one in plan.take if one.id in held or one.id in found]
        rows = [
            {"id": one.id, "what": plan.what, "origin": origin, "model": one.model, "was": one.split} for one in taken
        ]
        batch = _write(root, rows, why)
        failpoint("hard.written")
        if found:
            ingest_unrecorded(root, file, kind="hard", columns=Columns(picked="picked"))
            failpoint("hard.ingested")
    if refused := found - held_ids(data, found):  # by the ingest: it says why
        with data_lock(root):
            erase_changes(data, refused)
        batch = change_files(data)[-1].batch if len(rows) > len(refused) else None
    count = len(rows) - len(refused)
    return Changed(batch, count, plan.what, len(plan.take) - count)


def undo_change(root: Path, why: str, batch: str | None = None, commit: bool = True) -> Changed:
    """Take back the change `batch` (None: the newest), as one more change. Raises EvergreenError."""
    why = check_reason(why)
    check_repository(root, commit=False)
    restored_data(root)
    data = root / "data"
    known = [one.batch for one in change_files(data)]
    if not known:
        raise EvergreenError("people have not changed the hard set: there is nothing to undo")
    batch = batch or known[-1]
    if batch not in known:
        raise EvergreenError(f"no change {batch!r} of the hard set: `evergreen hard history` lists them")
    now = membership(data)
    rows = []
    for row in read_changes(data).to_pylist():
        if row["batch"] == batch and _stands(row, now):
            rows.append(
                {"id": row["id"], "what": OPPOSITE[row["what"]], "origin": "undo", "model": None, "was": row["was"]}
            )
    if not rows:
        raise EvergreenError(f"nothing of {batch} counts any more: later changes have taken it back")
    held = held_ids(data, [row["id"] for row in rows])
    rows = [row for row in rows if row["id"] in held]
    with undone_if_refused(root):
        found = Changed(_write(root, rows, why), len(rows), rows[0]["what"] if rows else "add")
        _record(root, f"undo {batch}, {found.sentence()}: {why}", commit)
    return found


def _stands(row: dict, now) -> bool:
    inside = row["id"] in (now.added if row["what"] == "add" else now.removed)
    return inside if row["what"] in ("add", "remove") else (row["id"] in now.never) == (row["what"] == "never")


def _write(root: Path, rows: Sequence[dict], why: str) -> str | None:
    if not rows:
        return None
    about = {"at": datetime.now(UTC), "by": person(root), "why": why}
    data = root / "data"
    with data_lock(root):
        raise_schema(data, HARD_SET_VERSION)
        return write_changes(data, [row | about for row in rows], next_seq(data))


def _record(root: Path, message: str, commit: bool) -> None:
    record_data(root)
    failpoint("hard.recorded")
    if commit:
        commit_data(root, message)


@contextmanager
def _from_log(root: Path, logged: Sequence[Candidate]) -> Iterator[tuple[Path, set[str]]]:
    """(a manifest of images of the production log, the ids of those whose bytes it holds), until the block ends."""
    params = load_params(root / "params.yaml")
    schema = pa.schema(
        [
            ("image", pa.binary()), ("label", label_type(params.data.task)), ("source", pa.string()),
            ("taken_at", pa.timestamp("us", tz="UTC")), ("key", pa.string()),
            ("slice", SLICE), ("picked", pa.string()),
        ]
    )  # fmt: skip
    found: set[str] = set()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "mistakes.parquet"
        if logged:
            log = open_log(root, params)
            with pq.ParquetWriter(file, schema, compression="none") as writer:
                given = sorted(logged, key=lambda one: (one.at, one.id))
                for first in range(0, len(given), BLOCK):
                    rows = _rows(log, given[first : first + BLOCK])
                    found |= {row.pop("id") for row in rows}
                    writer.write_table(pa.Table.from_pylist(rows, schema=schema))
        yield file, found


def _rows(log: Log, part: Sequence[Candidate]) -> list[dict]:
    """What is ingested of `part`, in the order of time; images without bytes are left out."""
    label = {one.id: one.label for one in part}
    times = part[0].at, part[-1].at + timedelta(microseconds=1)
    return [
        {
            "id": row["id"], "image": row["image"], "label": label[row["id"]], "source": row["source"],
            "taken_at": row["at"], "key": row["key"], "slice": row["slices"], "picked": "feedback",
        }
        for row in log.find(label, *times, [*dict.fromkeys(["id", "image", *LOCATED])]).to_pylist()
        if row["image"]
    ]  # fmt: skip
