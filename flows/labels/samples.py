"""Find samples of the data set by id, and read their images one at a time."""

from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from tasks.dataset.shards import iter_bytes, live_shards, read_columns, read_paths, read_tombstones
from tasks.labels.taxonomy import read_taxonomy

COLUMNS = ("id", "key", "label", "source", "taken_at", "origin", "batch", "split")


def find_samples(data: Path, ids: Iterable[str], tombstones: Collection[str] = ()) -> pa.Table:
    """The samples with these ids, each once: COLUMNS, `shard` (file name), `row` and `path` (the owner's, or null).

    `label` is as first given. Samples of tombstoned batches are left out, and so are ids that the data set lacks.
    """
    wanted, tables = pa.array(sorted(set(ids)), pa.string()), []
    for shard in live_shards(data, tombstones):
        if not len(wanted):
            break
        names = read_columns(shard.path, ["id"])["id"].combine_chunks()
        rows = pc.indices_nonzero(pc.is_in(names, wanted))
        if len(rows):
            found = read_columns(shard.path, COLUMNS).take(rows)
            found = found.append_column("shard", pa.array([shard.name] * len(found), pa.string()))
            tables.append(found.append_column("row", rows.cast(pa.int32())))
            wanted = wanted.filter(pc.invert(pc.is_in(wanted, found["id"].combine_chunks())))
    if not tables:
        return pa.table({name: pa.array([], pa.string()) for name in (*COLUMNS, "shard", "row", "path")})
    table = pa.concat_tables(tables)
    paths = read_paths(data, table["shard"].to_pylist(), table["row"].to_pylist())
    return table.append_column("path", pa.array(paths, pa.string()))


def iter_images(data: Path, samples: pa.Table) -> Iterator[tuple[str, bytes]]:
    """(id, encoded image) of `samples` (from `find_samples`), in the order in which they are stored."""
    by_shard: dict[str, dict[int, str]] = {}
    for name, shard, row in zip(*(samples[key].to_pylist() for key in ("id", "shard", "row")), strict=True):
        by_shard.setdefault(shard, {})[row] = name
    for shard, rows in by_shard.items():
        for row, content in iter_bytes(data / shard, sorted(rows)):
            yield rows[row], content


def held_ids(data: Path, ids: Iterable[str]) -> set[str]:
    """The ids among `ids` that the data set holds."""
    wanted, found = pa.array(sorted(set(ids)), pa.string()), set()
    for shard in live_shards(data) if (data / "dataset.json").is_file() else ():
        names = read_columns(shard.path, ["id"])["id"]
        found |= set(names.filter(pc.is_in(names, wanted)).to_pylist())
    return found


def data_classes(root: Path) -> list[str]:
    """The classes of the labels that samples were first given, as they are called today, and added ones.

    [] without a data set.
    """
    data, found = root / "data", set()
    if not (data / "dataset.json").is_file():
        return []
    for shard in live_shards(data, read_tombstones(root)):
        labels = read_columns(shard.path, ["label"])["label"].combine_chunks()
        flat = labels.flatten() if pa.types.is_list(labels.type) else labels
        found |= set(flat.drop_null().unique().to_pylist())
    taxonomy = read_taxonomy(data)
    return sorted({*taxonomy.current(found), *taxonomy.classes})
