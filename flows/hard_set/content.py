"""What is in the hard set now: its images with label, source, and who put them in."""

from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pyarrow.compute as pc

from flows.labels.samples import find_samples
from tasks.common.params import load_params
from tasks.dataset.hard_set import Membership, membership, version_of
from tasks.dataset.shards import batches, read_tombstones
from tasks.labels.effective import effective_samples
from tasks.labels.reading import names_of
from tasks.labels.taxonomy import read_taxonomy

Label = str | list[str]


@dataclass(frozen=True)
class Member:
    """One image of the hard set."""

    id: str
    label: Label | None  # None: it has none that counts, so it is not asked
    key: str | None
    path: str | None
    source: str | None
    batch: str
    never: bool  # no released model may get it wrong
    seq: int  # number of the batch or change that put it in
    by: str | None = None  # who put it in; None: it was ingested for the hard set
    at: datetime | None = None
    why: str = ""
    origin: str = "ingest"  # ingest | chosen | production | queue | undo
    model: str | None = None  # the version whose mistake it is


@dataclass(frozen=True)
class HardSet:
    """The hard set of a data set."""

    version: str | None  # None: no image of it has a label
    members: list[Member]  # the newest first
    never: frozenset[str]  # all marked images, those of the test split too

    @property
    def asked(self) -> list[Member]:
        """The images that models are judged on."""
        return [one for one in self.members if one.label is not None]

    def classes(self) -> Counter:
        """Class -> images."""
        return Counter(name for one in self.asked for name in names_of(one.label))

    def sources(self) -> Counter:
        """Source, "" for none -> images."""
        return Counter(one.source or "" for one in self.members)


def read_hard_set(root: Path) -> HardSet:
    """The hard set of the project at `root`."""
    data, params = root / "data", load_params(root / "params.yaml")
    if not (data / "dataset.json").is_file():
        return HardSet(None, [], frozenset())
    stones = read_tombstones(root)
    samples = effective_samples(data, read_taxonomy(data), stones, params.labels.consensus)
    hard = samples.filter(pc.equal(samples["split"], "hard"))
    label = dict(zip(hard["id"].to_pylist(), hard["label"].to_pylist(), strict=True))
    about = {row["id"]: row for row in find_samples(data, label, stones).to_pylist()}
    now, order = membership(data), {one.batch: one.seq for one in batches(data)}
    members = [_member(row, label[name], now, order) for name, row in about.items()]
    members.sort(key=lambda one: (one.seq, one.id), reverse=True)
    asked = [one.id for one in members if one.label is not None]
    return HardSet(version_of(asked, "hard"), members, now.never)


def _member(row: dict, label: Label | None, now: Membership, order: dict[str, int]) -> Member:
    change = now.rows[row["id"]] if row["id"] in now.added else {}
    told = {name: change[name] for name in ("by", "at", "why", "origin", "model") if name in change}
    same = {name: row[name] for name in ("id", "key", "path", "source", "batch")}
    seq = change["seq"] if change else order.get(row["batch"], 0)
    return Member(label=label, never=row["id"] in now.never, seq=seq, **same, **told)
