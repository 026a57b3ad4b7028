"""What the data set already holds, as an ingest asks for it: ids, labels, splits, near-duplicates.

Samples of tombstoned batches are included: otherwise a batch found bad would come back with the next schedule.
"""

from collections import defaultdict
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tasks.common.class_names import composed
from tasks.common.params import ImagesParams, InspectParams
from tasks.dataset.hard_set import membership
from tasks.dataset.shards import Shard, batches, live_shards, read_columns, shard_groups, shard_version
from tasks.ingest import holdout
from tasks.ingest.splits import GROWING, RecordedSplits
from tasks.inspection.measures import shard_measures, thumbnails
from tasks.inspection.near_duplicates import near_pairs_between
from tasks.labels.annotations import effective_labels, read_annotations
from tasks.labels.taxonomy import read_taxonomy

ROWS_AT_ONCE = 50_000  # recorded images compared at a time
START = "S16"  # of an id: enough to find it, a quarter of its memory


class ExistingSamples:
    """The samples of the data set at root/data. Takes about 200 bytes of memory per sample."""

    def __init__(self, root: Path):
        self.root = root
        self.batches = batches(root / "data")
        self.taxonomy = read_taxonomy(root / "data")
        self.shards: list[Shard] = live_shards(root / "data")
        hard = membership(root / "data")
        self.moved = hard.added | hard.removed  # by people: offered again they are known, whatever their split
        tables = [
            read_columns(shard.path, ["id", "label", "source", "split", "batch", "taken_at"]).append_column(
                "group", shard_groups(shard.path)
            )
            for shard in self.shards
        ]
        self.samples = pa.concat_tables(tables) if tables else None
        starts = [np.asarray(table["id"].to_pylist(), dtype=START) for table in tables]  # numpy cuts them off
        found = np.concatenate([np.empty(0, START), *starts])
        self._order = np.argsort(found, kind="stable")
        self._starts = found[self._order]

    def find(self, image: str) -> int | None:
        """Number of the sample with this id; None if the image is new."""
        start = np.bytes_(image.encode()).astype(START)
        first, last = (int(np.searchsorted(self._starts, start, side)) for side in ("left", "right"))
        return next((one for one in self._order[first:last].tolist() if self.value(one, "id") == image), None)

    def classes(self) -> set[str]:
        """Every class that a sample was given when it was taken, as it is called today."""
        if self.samples is None:
            return set()
        names = composed(self.samples.column("label"))
        flat = names if pa.types.is_string(names.type) else pc.list_flatten(names)
        return {self.taxonomy.rename(name) for name in flat.unique().drop_null().to_pylist()}

    def class_names(self) -> set[str]:
        """Every name that an image may bring without being of a new class: those of today and of the past."""
        return self.classes() | set(self.taxonomy.meaning)

    def value(self, sample: int, column: str):
        """`column` (id, label, source, group, split, batch) of a sample."""
        return self.samples.column(column)[sample].as_py()

    def recorded_splits(self, tombstones: Collection[str]) -> RecordedSplits:
        """The split in which each group was first recorded, and the rows that are in use, by effective label.

        Groups of tombstoned batches stay where they are, but their rows do not count. Nor does the hard set.
        """
        if self.samples is None:
            return RecordedSplits()
        growing = _kept(self.samples, pc.is_in(self.samples["split"], pa.array(GROWING)))
        pairs = growing.select(["group", "split"]).group_by(["group", "split"], use_threads=False).aggregate([])
        groups: dict[str, str] = {}
        for group, split in zip(pairs["group"].to_pylist(), pairs["split"].to_pylist(), strict=True):
            if group is not None:
                groups.setdefault(group, split)
        live = _kept(growing, pc.invert(pc.is_in(growing["batch"], pa.array(sorted(tombstones), pa.string()))))
        annotations = read_annotations(self.root / "data", tombstones)
        labels = effective_labels(live["id"], live["label"], annotations, self.taxonomy)
        counts = (_by_split(live["split"], column) for column in (None, labels, live["source"]))
        return RecordedSplits(groups, *counts, _times(live))

    def groups_of(self, classes: Collection[str]) -> list[tuple[str, tuple[str, ...]]]:
        """(group, else id; those of `classes` that it has) of every recorded row that has one; not the hard set."""
        if self.samples is None or not classes:
            return []
        columns = (self.samples[name].to_pylist() for name in ("id", "group", "label", "split"))
        found = []
        for image, group, label, split in zip(*columns, strict=True):
            names = tuple(name for name in ([label] if isinstance(label, str) else label or ()) if name in classes)
            if names and split in GROWING:
                found.append((group or image, names))
        return found

    def old_sources(self) -> set[str]:
        """Sources in shards of version 1, where the source was the group key (tasks.dataset.shards)."""
        old = [shard.path for shard in self.shards if shard_version(shard.path) == 1]
        columns = (read_columns(path, ["source"]).column("source") for path in old)
        return {source for column in columns for source in column.unique().to_pylist() if source is not None}

    def neighbour_splits(
        self, phash: np.ndarray, thumbs: np.ndarray, images: ImagesParams, inspect: InspectParams
    ) -> dict[int, set[str]]:
        """Splits that hold near-duplicates of N new images, phash (N,) uint64, thumbs (N, 256) uint8.

        Keys are the indices of new images that have a near-duplicate. Decodes only shards without stored measures.
        """
        found: dict[int, set[str]] = defaultdict(set)
        bits, difference = inspect.near_duplicate_bits, inspect.near_duplicate_difference
        for old in self._measures(images, inspect):
            split_of = np.asarray(old.column("split").to_pylist())
            old_phash, old_thumbs = old.column("phash").to_numpy(), thumbnails(old.column("thumbnail"))
            for split in np.unique(split_of):  # separately: of identical images only the first is paired
                here = split_of == split
                pairs = near_pairs_between(phash, thumbs, old_phash[here], old_thumbs[here], bits, difference)
                for new in np.unique(pairs[:, 0]):
                    found[int(new)].add(str(split))
        return dict(found)

    def _measures(self, images: ImagesParams, inspect: InspectParams) -> Iterator[pa.Table]:
        """phash, thumbnail and split of all decodable samples, some shards at a time."""
        waiting: list[pa.Table] = []
        for shard in self.shards:
            measures = shard_measures(self.root, shard.name, images, inspect).select(["phash", "thumbnail", "status"])
            table = measures.append_column("split", read_columns(shard.path, ["split"]).column("split"))
            waiting.append(table.filter(pc.and_(pc.equal(table.column("status"), "ok"), pc.is_valid(table["split"]))))
            if sum(map(len, waiting)) >= ROWS_AT_ONCE:
                yield pa.concat_tables(waiting)
                waiting = []
        if waiting:
            yield pa.concat_tables(waiting)

    def annotations(self, ids: Collection[str]) -> list[dict]:
        """Annotations of these samples in ingest order, also those of tombstoned batches."""
        if not ids or not self.batches:
            return []
        table = read_annotations(self.root / "data")
        return table.filter(pc.is_in(table.column("id"), pa.array(sorted(ids), pa.string()))).to_pylist()


def _kept(table: pa.Table, mask: pa.ChunkedArray) -> pa.Table:
    """The rows of `table` that `mask` marks; the table itself if it marks all, which saves a copy of millions."""
    return table if pc.all(mask, min_count=0).as_py() else table.filter(mask)


def _times(samples: pa.Table) -> holdout.Recorded:
    """When the samples of each split were taken, as far as they have a time."""
    timed = samples.filter(pc.is_valid(samples["taken_at"]))
    at = timed["taken_at"].cast(pa.timestamp("us", tz="UTC")).cast(pa.int64()).to_numpy()
    return holdout.record(at, pc.index_in(timed["split"], pa.array(GROWING)).to_numpy().astype(np.int64))


def _by_split(splits: pa.ChunkedArray, values: pa.ChunkedArray | None) -> dict:
    """Rows by split; with `values`, by (split, value). A list counts each of its values, an empty one None."""
    if values is None:
        return {row["values"]: row["counts"] for row in splits.value_counts().to_pylist()}
    table = pa.table({"split": splits, "value": values}).combine_chunks()
    if pa.types.is_list(values.type):
        lists = table["value"].combine_chunks()
        parents = pc.list_parent_indices(lists)
        none = table.filter(pc.equal(pc.fill_null(pc.list_value_length(lists), 0), 0))
        table = pa.concat_tables(
            [
                pa.table({"split": table["split"].take(parents), "value": pc.list_flatten(lists)}),
                pa.table({"split": none["split"], "value": pa.nulls(len(none), pa.string())}),
            ]
        )
    counts = table.group_by(["split", "value"], use_threads=False).aggregate([([], "count_all")])
    return {(row["split"], row["value"]): row["count_all"] for row in counts.to_pylist()}
