"""Take images out of the data set for good: their rows leave the shards, annotations and manifests that hold them.

Shards are immutable and named by content, so what is left of one is a new shard; the manifest that names it takes the
place of the old one by one rename, and what no manifest names any more is removed last. Killed anywhere, a batch is
as it was or without the rows, and doing it again completes it.
"""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.common.failpoints import failpoint
from tasks.common.files import atomic_path, sha256_file
from tasks.dataset import shards

PIXELS = {"image", "thumbnail", "heat"}  # columns that show an image, or where a model looked in it
MAGIC = b"PAR1"


def ids_of(file: Path | BinaryIO, source: str) -> set[str]:
    """Ids of the rows of a Parquet file whose source is `source`."""
    if (parquet := _parquet(file)) is None or not {"id", "source"} <= set(parquet.schema_arrow.names):
        return set()
    table = parquet.read(columns=["id", "source"])
    return set(table.filter(pc.equal(table["source"], source))["id"].to_pylist())


def shows(file: Path | BinaryIO, ids: Collection[str]) -> set[str]:
    """Which of `ids` a Parquet file has the bytes or a thumbnail of; empty for any other file."""
    if (parquet := _parquet(file)) is None:
        return set()
    names = set(parquet.schema_arrow.names)
    return _found(parquet, ids) if "id" in names and names & PIXELS else set()


def without(table: pa.Table, ids: Collection[str]) -> pa.Table:
    """The rows of `table` that are not of `ids`."""
    return table.filter(pc.invert(pc.is_in(table["id"], pa.array(sorted(ids), pa.string()))))


def rewrite(data: Path, ids: Collection[str]) -> list[str]:
    """Take `ids` out of the data set in `data`; names of the shards that are gone."""
    for batch in shards.batches(data):
        kept = [_rewrite_shard(data, name, ids) for name in batch.shards]
        failpoint("erase.shard")
        notes = [_rewrite_annotations(data / "annotations" / name, ids) for name in batch.annotations]
        changed = {"shards": [name for name in kept if name], "annotations": [name for name in notes if name]}
        if changed != {"shards": batch.shards, "annotations": batch.annotations}:
            rows = sum(pq.ParquetFile(data / name).metadata.num_rows for name in changed["shards"])
            shards.write_batch(data, batch.model_copy(update=changed | {"rows": rows}))
            failpoint("erase.batch")
    named = {name for batch in shards.batches(data) for name in batch.shards}
    named |= {f"annotations/{name}" for batch in shards.batches(data) for name in batch.annotations}
    gone = []
    for file in sorted([*data.glob("*.parquet"), *data.glob("annotations/*.parquet")]):
        if str(file.relative_to(data)) not in named and _found(pq.ParquetFile(file), ids):
            file.unlink()
            gone.append(file.name)
            failpoint("erase.removed")
    return gone


def _rewrite_shard(data: Path, name: str, ids: Collection[str]) -> str | None:
    """The shard that holds the other rows of shard `name`; None where there are none."""
    file = pq.ParquetFile(data / name)
    if not (found := _found(file, ids)):
        return name
    if file.metadata.num_rows == len(found):
        return None
    return shards.write_shard(data, _groups(file, ids), shards.task_of(data))


def _groups(file: pq.ParquetFile, ids: Collection[str]) -> Iterator[pa.Table]:
    """The other rows, as tables of whole row groups."""
    held = None
    for batch in file.iter_batches(batch_size=shards.ROW_GROUP):
        rows = without(pa.Table.from_batches([batch]), ids)
        held = rows if held is None else pa.concat_tables([held, rows])
        if len(held) >= shards.ROW_GROUP:
            yield held.slice(0, shards.ROW_GROUP)
            held = held.slice(shards.ROW_GROUP)
    if held is not None and len(held):
        yield held


def _rewrite_annotations(file: Path, ids: Collection[str]) -> str | None:
    if not _found(pq.ParquetFile(file), ids):
        return file.name
    rest = without(pq.read_table(file), ids)
    if len(rest) == 0:
        return None
    staged = file.with_name(".incoming.parquet")
    with atomic_path(staged) as temporary:
        pq.write_table(rest, temporary, compression="zstd")
    name = f"{sha256_file(staged)[:24]}.parquet"
    staged.rename(file.with_name(name))
    return name


def _parquet(file: Path | BinaryIO) -> pq.ParquetFile | None:
    """None for what is no Parquet file, or a torn one: nothing can be read of it."""
    try:
        if isinstance(file, Path):
            with open(file, "rb") as opened:
                if opened.read(4) != MAGIC:
                    return None
        elif file.read(4) != MAGIC:
            return None
        else:
            file.seek(0)
        return pq.ParquetFile(file)
    except (OSError, pa.ArrowInvalid):
        return None


def _found(parquet: pq.ParquetFile, ids: Collection[str]) -> set[str]:
    column = parquet.read(columns=["id"])["id"]
    return set(column.filter(pc.is_in(column, pa.array(sorted(ids), pa.string()))).to_pylist())
