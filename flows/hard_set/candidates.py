"""Images for the hard set: chosen ones, mistakes of production, those of the review queue."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flows.hard_set.content import Label
from flows.labels.samples import find_samples
from flows.production.labels import EVER
from monitoring.live.labels import ANSWER, in_common_names, truths, with_truth
from monitoring.log.production_log import Log, majority_labels, open_log
from tasks.common.params import Params, load_params
from tasks.dataset.shards import live_shards, read_columns, read_tombstones
from tasks.inspection.measures import shard_measures
from tasks.labels.effective import effective_samples
from tasks.labels.reading import names_of
from tasks.labels.taxonomy import read_taxonomy

JUDGED = ("hard", "test")  # splits that models are judged on


@dataclass(frozen=True)
class Candidate:
    """One image that may go into the hard set."""

    id: str
    label: Label | None
    source: str | None
    split: str | None  # of today; None: only the production log has it, or it is in no split
    batch: str | None = None  # of data/
    at: datetime | None = None  # of the answer, of an image that only the log has
    model: str | None = None  # the version that was wrong about it
    out: bool = False  # it is in no use: tombstoned
    synthetic: bool = False

    def stays(self) -> str | None:
        """Why it cannot go into the hard set; None if it can. A key of flows.hard_set.plan.STAYS."""
        if self.out:
            return "out"
        if self.synthetic:
            return "synthetic"
        if self.split in (*JUDGED, "calibration"):
            return self.split
        return "no label" if self.label is None else None


def candidates_of(root: Path, ids: Sequence[str]) -> list[Candidate]:
    """The images `ids`, in that order: of data/, else of the production log; unknown ids are left out."""
    params = load_params(root / "params.yaml")
    found = _in_data(root, params, ids)
    rest = [name for name in ids if name not in found]
    if rest:
        log = open_log(root, params)
        labels = majority_labels(log.labels(), read_taxonomy(root / "data"))
        known = dict(zip(labels["id"].to_pylist(), labels["label"].to_pylist(), strict=True))
        for row in log.find(rest, *EVER, ["id", "at", "source"]).to_pylist():
            found[row["id"]] = Candidate(row["id"], known.get(row["id"]), row["source"], None, at=row["at"])
    wrong = {one.id: one.model for one in _wrong(root, params, ids)}
    return [replace(found[name], model=wrong.get(name)) for name in dict.fromkeys(ids) if name in found]


def production_mistakes(root: Path, start: datetime | None = None, end: datetime | None = None) -> list[Candidate]:
    """The answers of [start, end) that their labels contradict, the most confident first; each image once.

    An image that data/ holds has the label that counts there: where that agrees with the answer, the answer was right.
    """
    return _wrong(root, load_params(root / "params.yaml"), None, start or EVER[0], end or EVER[1])


def _wrong(
    root: Path,
    params: Params,
    ids: Collection[str] | None,
    start: datetime = EVER[0],
    end: datetime = EVER[1],
) -> list[Candidate]:
    """The mistakes among the labelled answers of [start, end); ids: only about these images."""
    log, taxonomy = open_log(root, params), read_taxonomy(root / "data")
    known = truths(log.labels(), (), taxonomy)
    if ids is not None:
        known = {name: known[name] for name in ids if name in known}
    if not known:
        return []
    rows = in_common_names(with_truth(log.answers(known, start, end, ANSWER), known), taxonomy).to_pylist()
    wrong = [row for row in rows if not _same(row["prediction"], row["label"])]
    wrong.sort(key=lambda row: (-(row["confidence"] or 0.0), row["id"]))
    held = _in_data(root, params, [row["id"] for row in wrong])
    mistakes = []
    for row in wrong:
        inside, version = held.get(row["id"]), row["version"]
        if inside is None:
            mistakes.append(Candidate(row["id"], row["label"], row["source"], None, at=row["at"], model=version))
        elif inside.label is None or not _same(row["prediction"], inside.label):
            mistakes.append(replace(inside, model=version))
    return mistakes


def from_queue(root: Path) -> list[Candidate]:
    """The images of data/ that the review queue had picked: the model was unsure, or the image unfamiliar."""
    ids = []
    for shard in live_shards(root / "data", read_tombstones(root)):
        table = read_columns(shard.path, ["id", "picked", "split"])
        table = table.filter(pc.and_(pc.equal(table["picked"], "queue"), pc.is_valid(table["split"])))
        ids += [row["id"] for row in table.to_pylist() if row["split"] != "hard"]
    return candidates_of(root, ids)


def judged_images(root: Path, ids: Collection[str]) -> dict[str, Candidate]:
    """Those of `ids` that models are judged on: of the hard set and the test split."""
    found = _in_data(root, load_params(root / "params.yaml"), ids)
    return {name: one for name, one in found.items() if one.split in JUDGED and not one.out}


def training_counts(root: Path) -> dict[str, int]:
    """Class -> labelled training images."""
    params, data = load_params(root / "params.yaml"), root / "data"
    samples = effective_samples(data, read_taxonomy(data), read_tombstones(root), params.labels.consensus)
    counts: dict[str, int] = {}
    for label in samples.filter(pc.equal(samples["split"], "train"))["label"].drop_null().to_pylist():
        for name in names_of(label):
            counts[name] = counts.get(name, 0) + 1
    return counts


def _in_data(root: Path, params: Params, ids: Iterable[str]) -> dict[str, Candidate]:
    """Those of `ids` that data/ holds, with the label that counts; those of tombstoned batches are `out`."""
    data, ids = root / "data", list(ids)
    if not ids or not (data / "dataset.json").is_file():
        return {}
    stones = read_tombstones(root)
    samples = effective_samples(data, read_taxonomy(data), stones, params.labels.consensus)
    samples = samples.filter(pc.is_in(samples["id"], pa.array(ids, pa.string())))
    label = dict(zip(samples["id"].to_pylist(), samples["label"].to_pylist(), strict=True))
    return {
        row["id"]: Candidate(
            row["id"],
            label.get(row["id"]),
            row["source"],
            row["split"],
            row["batch"],
            out=row["id"] not in label,
            synthetic=row["origin"] == "synthetic",
        )
        for row in find_samples(data, ids).to_pylist()
    }


def _same(a: Label | None, b: Label | None) -> bool:
    return sorted(names_of(a)) == sorted(names_of(b)) if a is not None and b is not None else a == b


def without_near(
    root: Path, candidates: Sequence[Candidate], members: Sequence[str]
) -> tuple[list[Candidate], list[str]]:
    """(those without a near-duplicate among `members` and the ones before them, ids of the others).

    By the perceptual hash alone.
    """
    params = load_params(root / "params.yaml")
    hashes = _hashes(root, params, [*members, *(one.id for one in candidates)])
    taken = np.array([hashes[name] for name in members if name in hashes], np.uint64)
    kept, near = [], []
    for one in candidates:
        own = hashes.get(one.id)
        if own is not None and (np.bitwise_count(taken ^ np.uint64(own)) <= params.inspect.near_duplicate_bits).any():
            near.append(one.id)
            continue
        kept.append(one)
        if own is not None:
            taken = np.append(taken, np.uint64(own))
    return kept, near


def _hashes(root: Path, params: Params, ids: Sequence[str]) -> dict[str, int]:
    """The perceptual hash of each image: as the data set measured it, else as the log did."""
    wanted, found = set(ids), {}
    for shard in live_shards(root / "data"):
        names = read_columns(shard.path, ["id"])["id"].to_pylist()
        if wanted.isdisjoint(names):
            continue
        hashed = shard_measures(root, shard.name, params.images, params.inspect)["phash"].to_pylist()
        found |= {
            name: value for name, value in zip(names, hashed, strict=True) if name in wanted and value is not None
        }
    if rest := wanted - set(found):
        log: Log = open_log(root, params)
        rows = log.find(rest, *EVER, ["id", "phash"]).to_pylist()
        found |= {row["id"]: row["phash"] for row in rows if row["phash"] is not None}
    return found
