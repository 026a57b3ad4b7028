"""Carry out a plan: ingest images of production, then write one change, as one commit."""

import tempfile
from collections.abc import Sequence
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
from flows.project.ingest import NO_LAYOUT, ingest_command, restored_data
from flows.repo.git import check_repository
from flows.repo.pipeline import record_data
from monitoring.log.production_log import open_log
from tasks.common.errors import EvergreenError
from tasks.common.params import load_params
from tasks.common.person import person
from tasks.common.schemas import SLICE, label_type
from tasks.dataset.hard_set import OPPOSITE, change_files, membership, read_changes, write_changes
from tasks.dataset.shards import HARD_SET_VERSION, next_seq, raise_schema
from tasks.ingest.lock import data_lock
from tasks.sources.records import Columns

BLOCK = 64  # images in memory at once
DONE = {"add": "added", "remove": "taken out", "never": "marked never again", "allow": "no longer never again"}


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
        return f"hard set: {self.count:,} image{'s' * (self.count != 1)} {DONE[self.what]} ({self.batch}){without}"


def take_plan(root: Path, plan: Plan, why: str, *, origin: str = "chosen", commit: bool = True) -> Changed:
    """Do what `plan` says, as one commit. Raises EvergreenError."""
    why = check_reason(why)
    if not plan.take:
        return Changed(None)
    check_repository(root, commit=False)
    restored_data(root)
    logged = [one for one in plan.take if one.split is None and one.at is not None]
    if plan.what == "add" and logged:
        _ingest(root, logged)
    here = held_ids(root / "data", [one.id for one in plan.take])
    rows = [
        {"id": one.id, "what": plan.what, "origin": origin, "model": one.model, "was": one.split}
        for one in plan.take
        if one.id in here
    ]
    with undone_if_refused(root):
        found = Changed(_write(root, rows, why), len(rows), plan.what, len(plan.take) - len(rows))
        _record(root, f"{found.sentence()}: {why}", commit)
    return found


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
    if commit:
        commit_data(root, message)


def _ingest(root: Path, logged: Sequence[Candidate]) -> None:
    """Take images of the production log into data/ as a batch of the hard set; those without bytes are left out."""
    params = load_params(root / "params.yaml")
    log = open_log(root, params)
    schema = pa.schema(
        [
            ("image", pa.binary()), ("label", label_type(params.data.task)), ("source", pa.string()),
            ("taken_at", pa.timestamp("us", tz="UTC")), ("key", pa.string()),
            ("slice", SLICE), ("picked", pa.string()),
        ]
    )  # fmt: skip
    written = 0
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "mistakes.parquet"
        with pq.ParquetWriter(file, schema, compression="none") as writer:
            given = sorted(logged, key=lambda one: (one.at, one.id))
            for first in range(0, len(given), BLOCK):
                part = given[first : first + BLOCK]
                label = {one.id: one.label for one in part}
                times = part[0].at, part[-1].at + timedelta(microseconds=1)
                rows = [
                    {
                        "image": row["image"], "label": label[row["id"]], "source": row["source"],
                        "taken_at": row["at"], "key": row["key"], "slice": row["slices"],
                        "picked": "feedback",
                    }
                    for row in log.find(label, *times, [*dict.fromkeys(["id", "image", *LOCATED])]).to_pylist()
                    if row["image"]
                ]  # fmt: skip
                written += len(rows)
                if rows:
                    writer.write_table(pa.Table.from_pylist(rows, schema=schema))
        if written:
            ingest_command(
                root, file, kind="hard", commit=False, new=False, layout=NO_LAYOUT, columns=Columns(picked="picked")
            )
