"""Stage `inspect`: measures every image of the data set and finds what must not be trained on.

Reads the samples in data/ and tombstones.json, but no annotation: a new label changes nothing here. Writes
artifacts/inspect/samples.parquet (schemas.samples_schema), artifacts/inspect/duplicates.parquet (DUPLICATES) and
metrics/inspect.json. Each image is decoded at most once: the measures of a shard are cached, so a run only pays for
new shards. N is the number of live samples.

    python -m tasks.stages inspect
"""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.common.class_names import composed
from tasks.common.errors import StageInputError
from tasks.common.files import atomic_path, write_json
from tasks.common.params import ImagesParams, InspectParams
from tasks.common.progress import track
from tasks.common.schemas import MEASURES, SPLITS, samples_schema
from tasks.dataset.shards import (
    batches,
    live_shards,
    read_columns,
    read_image_paths,
    read_task,
    read_tombstones,
    shard_version,
    undo_text,
)
from tasks.inspection.measures import shard_measures, thumbnails
from tasks.inspection.near_duplicates import clusters, near_pairs
from tasks.siblings.hidden_groups import find_hidden_groups

GIVEN = ("key", "label", "source", "taken_at", "origin", "batch", "slice", "split")  # columns copied from the shards
GIVEN = (*GIVEN, "picked", "sampling_probability")
OUT_OF_HARD_SET = "out_of_hard_set"  # why images are in no split: ingested for the hard set, and taken out by people
BLOCK = 4096  # thumbnails copied at a time
LEAKS = ("hard", "test", "calibration")  # the worst first: a training row is excluded for the first that applies

DUPLICATES = pa.schema(  # artifacts/inspect/duplicates.parquet: one row per near-duplicate pair
    [
        ("id", pa.string()),
        ("near_id", pa.string()),
        ("split", pa.string()),
        ("near_split", pa.string()),
        ("bits", pa.uint8()),  # bits, of 64, in which the perceptual hashes differ
        ("difference", pa.float32()),  # mean difference, of 255, of the 16 x 16 thumbnails
    ]
)


def run(root: Path, *, images: ImagesParams, inspect: InspectParams) -> None:
    """Inspect every live sample of the project at `root`. Raises StageInputError if there is none."""
    data, tombstones = root / "data", read_tombstones(root)
    task = read_task(data)
    live = [batch for batch in batches(data) if batch.batch not in tombstones]
    shards = live_shards(data, tombstones)
    if not shards:
        stones = {batch: about for batch, about in tombstones.items() if batch in {b.batch for b in batches(data)}}
        raise StageInputError(f"{data} has no live samples: run `evergreen ingest` first. {undo_text(stones)}".rstrip())
    table = pa.concat_tables(
        [_shard_rows(root, shard.name, images, inspect) for shard in track(shards, "inspecting shards")]
    )
    rows = first_occurrences(table.column("id"))
    repeated = table.num_rows - len(rows)
    if repeated:
        table = table.take(pa.array(rows))
    thumbs = _thumbnails(table.column("thumbnail"))
    table = table.drop_columns("thumbnail")  # now memory holds them once
    pa.default_memory_pool().release_unused()  # of reading

    pairs, distances = _near(table, thumbs, inspect)
    cluster = clusters(table.num_rows, pairs)
    splits = {name: pc.fill_null(pc.equal(table.column("split"), name), False).to_numpy() for name in SPLITS}
    excluded = leaks(splits, cluster)
    # ingest divides no group, but two branches may have put one into two splits; the hard set binds no group
    by_group = leaks(splits | {"hard": np.zeros(len(cluster), bool)}, _group_numbers(table.column("given_group")))
    excluded = np.where(excluded == None, by_group, excluded)  # noqa: E711 - elementwise
    excluded[pc.is_null(table.column("split")).to_numpy()] = OUT_OF_HARD_SET
    samples = (
        table.set_column(table.column_names.index("label"), "label", composed(table.column("label")))
        .append_column("cluster", cluster_names(table.column("id"), cluster))
        .append_column("excluded", pa.array(excluded, pa.string()))
    )
    schema = samples_schema(task)
    samples = samples.select(schema.names).cast(schema)

    out = root / "artifacts" / "inspect"
    _write(samples, out / "samples.parquet")
    _write(_pairs_table(samples, pairs, *distances), out / "duplicates.parquet")
    figures = summary(samples, pairs, cluster)
    samples = samples.select(["shard", "row", "label", "group", "split"])
    del table, excluded, by_group, cluster, pairs, distances, splits
    pa.default_memory_pool().release_unused()  # what follows works on Python's objects
    figures |= {
        "shards": len(shards),
        "batches": len(live),
        "repeated": repeated,  # rows whose image an earlier batch already has
        "refused_at_ingest": dict(sum((Counter(batch.quarantined) for batch in live), Counter())),
        "hidden_groups": _hidden_groups(root, samples, thumbs),
    }
    write_json(root / "metrics" / "inspect.json", figures)


def _hidden_groups(root: Path, samples: pa.Table, thumbs: np.ndarray) -> dict | None:
    """What the file names say where nobody recorded a group; said to the user, because it is too late to use it."""
    if samples["group"].null_count < len(samples):
        return None
    labels, split = shared_names(samples["label"]), shared_names(samples["split"])
    found = find_hidden_groups(read_image_paths(root, samples), labels, thumbs, split)
    if found is not None:
        print(
            f"inspect: {found['sentence']}. Images of this data set keep their split; to keep such groups in one, "
            f"ingest into a new project with --layout {found['layout']!r} or with a column `group`"
        )
    return found


def shared_names(column: pa.ChunkedArray) -> list[str | None]:
    """A column as Python's strings, one object per distinct value; lists of names are joined."""
    if pa.types.is_list(column.type):
        column = pc.binary_join(column, "|")
    codes = column.combine_chunks().dictionary_encode()
    names = codes.dictionary.to_pylist()
    return [None if code is None else names[code] for code in codes.indices.to_pylist()]


def _shard_rows(root: Path, shard: str, images: ImagesParams, inspect: InspectParams) -> pa.Table:
    """One row per row of the shard: its columns GIVEN and the measures of its images."""
    table = shard_measures(root, shard, images, inspect)
    path = root / "data" / shard
    given = read_columns(path, [*GIVEN, "group"]).combine_chunks()  # of hundreds of small row groups
    for name in GIVEN:
        table = table.append_column(name, given.column(name))
    group = given.column("source" if shard_version(path) == 1 else "group")
    table = table.append_column("group", group).append_column("given_group", given.column("group"))
    table = table.append_column("shard", pa.repeat(shard, table.num_rows))
    return table.append_column("row", pa.array(np.arange(table.num_rows, dtype=np.int32)))


def first_occurrences(ids: pa.ChunkedArray) -> np.ndarray:
    """Row numbers of the first occurrence of each id, ascending.

    An id is in two batches after a merge of two branches that each ingested the image.
    """
    codes = ids.combine_chunks().dictionary_encode().indices.to_numpy()
    return np.sort(np.unique(codes, return_index=True)[1])


def _thumbnails(column: pa.ChunkedArray) -> np.ndarray:
    """`thumbnails`, (N, 256), with BLOCK of them in memory twice, not all."""
    found, start = np.empty((len(column), 256), np.uint8), 0
    for chunk in column.chunks:
        for part in (chunk.slice(at, BLOCK) for at in range(0, len(chunk), BLOCK)):
            found[start : start + len(part)] = thumbnails(pa.chunked_array([part]))
            start += len(part)
    return found


def _near(
    table: pa.Table, thumbs: np.ndarray, inspect: InspectParams
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Near-duplicate pairs (P, 2) of rows of `table` with thumbnails `thumbs` (N, 256), and their distances:
    (bits (P,), difference (P,))."""
    fine = np.flatnonzero(pc.equal(table.column("status"), "ok").to_numpy())
    phash = pc.fill_null(table.column("phash"), 0).to_numpy()
    compared = (phash, thumbs) if len(fine) == len(thumbs) else (phash[fine], thumbs[fine])
    found = near_pairs(*compared, inspect.near_duplicate_bits, inspect.near_duplicate_difference)
    pairs = fine[found]
    a, b = pairs[:, 0], pairs[:, 1]
    distance = np.maximum(thumbs[a], thumbs[b]) - np.minimum(thumbs[a], thumbs[b])
    return pairs, (np.bitwise_count(phash[a] ^ phash[b]), distance.mean(axis=1, dtype=np.float32))


def _group_numbers(groups: pa.ChunkedArray) -> np.ndarray:
    """A number for each row, (N,): the same for rows of one group, one of its own for a row without."""
    codes = pc.fill_null(groups.combine_chunks().dictionary_encode().indices, -1).to_numpy()
    return np.unique(np.where(codes < 0, len(codes) + np.arange(len(codes)), codes), return_inverse=True)[1]


def cluster_names(ids: pa.ChunkedArray, cluster: np.ndarray) -> pa.ChunkedArray:
    """The smallest id of each row's cluster, (N,): a name that does not depend on the order of the rows."""
    order = pc.sort_indices(ids).to_numpy()
    smallest = np.empty(len(order), np.int64)
    smallest[cluster[order[::-1]]] = order[::-1]  # the last write wins: the smallest id
    return ids.take(pa.array(smallest[cluster]))


def leaks(splits: Mapping[str, np.ndarray], cluster: np.ndarray) -> np.ndarray:
    """Why a row must not be trained on, (N,) of "leaks_<split>" or None.

    `splits[name]` (N,) bool says which rows are in a split; `cluster` (N,) int are near-duplicate clusters. A training
    row leaks when its cluster has a held-out member: the model would be tested on an image it was trained on.
    """
    excluded = np.full(len(cluster), None, object)
    for split in LEAKS:
        held_out = np.zeros(len(cluster), bool)
        held_out[cluster[splits[split]]] = True
        hit = splits["train"] & held_out[cluster] & (excluded == None)  # noqa: E711 - elementwise
        excluded[hit] = f"leaks_{split}"
    return excluded


def summary(samples: pa.Table, pairs: np.ndarray, cluster: np.ndarray) -> dict:
    """Figures of an inspected table (samples_schema), its near pairs (P, 2) and clusters (N,)."""
    status = _counts(samples.column("status"))
    sizes = np.bincount(cluster)
    return {
        "rows": samples.num_rows,
        "ok": status.pop("ok", 0),
        "quarantined": status,
        "labelled": samples.num_rows - samples.column("label").null_count,
        "splits": _counts(samples.column("split")),
        "near_duplicates": {
            "pairs": len(pairs),
            "clusters": int((sizes > 1).sum()),
            "images": int(sizes[sizes > 1].sum()),
            "largest_cluster": int(sizes.max(initial=0)),
        },
        "leaks": {f"leaks_{split}": 0 for split in LEAKS} | _counts(samples.column("excluded")),
        "formats": _counts(samples.column("format")),
        "modes": _counts(samples.column("mode")),
        "measures": {
            field.name: _spread(samples.column(field.name))
            for field in MEASURES
            if pa.types.is_floating(field.type) or field.name in ("width", "height")
        },
    }


def _counts(column: pa.ChunkedArray) -> dict[str, int]:
    return {row["values"]: row["counts"] for row in column.drop_null().value_counts().to_pylist()}


def _spread(column: pa.ChunkedArray) -> dict[str, float]:
    values = column.drop_null().to_numpy().astype(np.float64)
    if len(values) == 0:
        return {}
    low, middle, high = np.quantile(values, [0.05, 0.5, 0.95])
    return {"mean": float(values.mean()), "p05": float(low), "p50": float(middle), "p95": float(high)}


def _pairs_table(samples: pa.Table, pairs: np.ndarray, bits: np.ndarray, difference: np.ndarray) -> pa.Table:
    a, b = (samples.select(["id", "split"]).take(pa.array(side)) for side in pairs.T)
    return pa.table([a["id"], b["id"], a["split"], b["split"], bits, difference], schema=DUPLICATES)


def _write(table: pa.Table, file: Path) -> None:
    with atomic_path(file) as temporary:
        pq.write_table(table, temporary, compression="zstd")
