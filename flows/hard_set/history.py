"""The versions of the hard set: every change, who made it, when, why, and the set after it."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pyarrow.compute as pc

from tasks.dataset.hard_set import WORDS, read_changes, sum_of, version_of
from tasks.dataset.shards import batches, live_shards, read_recorded_columns, read_tombstones


@dataclass(frozen=True)
class SetChange:
    """One change, and the set after it."""

    batch: str  # b-... of an ingest, h-... of a change
    seq: int
    what: dict[str, int]  # add, remove, never, allow -> images
    images: int  # in the set after it
    version: str | None  # after it; null: the set is empty
    by: str | None = None
    at: datetime | None = None
    why: str = ""
    origin: str = "ingest"

    def sentence(self) -> str:
        """ "added 12, marked never again 3"."""
        return ", ".join(f"{WORDS[name]} {count}" for name, count in self.what.items() if count)


def set_history(root: Path) -> list[SetChange]:
    """Every change of the hard set, oldest first. Versions count images whether they have a label or not."""
    data = root / "data"
    if not (data / "dataset.json").is_file():
        return []
    stones = read_tombstones(root)
    of_batch: dict[str, set[str]] = {}
    for shard in live_shards(data, stones):
        table = read_recorded_columns(shard.path, ["id", "split"])
        ids = table.filter(pc.equal(table["split"], "hard"))["id"].to_pylist()
        if ids:
            of_batch.setdefault(shard.batch, set()).update(ids)
    events = [(one.seq, one.batch, None) for one in batches(data) if one.batch in of_batch]
    changed: dict[tuple[int, str], list[dict]] = {}
    for row in read_changes(data).to_pylist():
        changed.setdefault((row["seq"], row["batch"]), []).append(row)
    events += [(*key, rows) for key, rows in changed.items()]
    recorded: set[str] = set()
    said: list[dict] = []
    found, before = [], set()
    for seq, batch, rows in sorted(events, key=lambda one: one[:2]):
        if rows is None:
            recorded |= of_batch[batch]
        else:
            said += rows
        now = sum_of(said)
        ids = (recorded - now.removed) | now.added
        if rows is None and ids == before:  # images that a change had put in, ingested with it
            continue
        if rows is None:
            counts, told = {"add": len(ids - before)}, {}
        else:
            counts = {name: sum(row["what"] == name for row in rows) for name in WORDS}
            told = {name: rows[0][name] for name in ("by", "at", "why", "origin")}
        found.append(SetChange(batch, seq, counts, len(ids), version_of(ids, "hard"), **told))
        before = ids
    return found
