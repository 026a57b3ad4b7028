"""Erase images from the data set: remove their rows from shards, annotations and manifests.

Shards are immutable and named by content, so the remaining rows of a shard become a new shard. The new manifest
replaces the old one by a single rename; files that no manifest lists any more are deleted last. If the process is
killed at any point, each batch is either unchanged or without the rows, and another call completes the erasure.
"""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.common.failpoints import failpoint
from tasks.common.files import atomic_path, sha256_file
from tasks.common.verified import open_named, read_named
from tasks.dataset import shards
from tasks.dataset.annotation_files import annotation_batches, write_annotation_manifest
from tasks.dataset.hard_set import erase_changes
from tasks.labels.names import same_file

PIXELS = {"image", "thumbnail", "heat"}  # columns with an image, or with the regions a model looked at
MAGIC = b"PAR1"


def ids_of(file: Path | BinaryIO, name: str) -> set[str]:
    """Ids of the rows of a Parquet file whose source, group, owner's key or path is `name`."""
    if (parquet := _parquet(file)) is None:
        return set()
    table = _named(parquet)
    columns = [column for column in table.column_names if column != "id"]
    return {image for column in columns for image in table.filter(pc.equal(table[column], name))["id"].to_pylist()}


def ids_of_file(file: Path | BinaryIO, name: str) -> set[str]:
    """Ids of the rows of a Parquet file whose path ends with `name`, a file's name, or is the end of it."""
    if (parquet := _parquet(file)) is None:
        return set()
    table, found = _named(parquet), set()
    for column in {"path", "image.path"} & set(table.column_names):
        rows = table.filter(pc.ends_with(table[column], name.rsplit("/", 1)[-1]))
        pairs = zip(rows["id"].to_pylist(), rows[column].to_pylist(), strict=True)
        found |= {image for image, path in pairs if same_file(path, name)}
    return found


def ids_starting(file: Path | BinaryIO, start: str) -> set[str]:
    """Ids of the rows of a Parquet file that begin with `start`."""
    if (parquet := _parquet(file)) is None or "id" not in parquet.schema_arrow.names:
        return set()
    column = parquet.read(columns=["id"])["id"]
    return set(column.filter(pc.starts_with(column, start)).to_pylist())


def ids_with_pixels(file: Path | BinaryIO, ids: Collection[str]) -> set[str]:
    """The `ids` whose bytes, thumbnail or heat map a Parquet file holds; empty for any other file."""
    if (parquet := _parquet(file)) is None:
        return set()
    names = set(parquet.schema_arrow.names)
    return _present(parquet, ids) if "id" in names and names & PIXELS else set()


def _named(parquet: pq.ParquetFile) -> pa.Table:
    """What people call the images of a Parquet file: id and those of source, group, key, path and image.path it has."""
    names = parquet.schema_arrow.names
    columns = [column for column in ("source", "group", "key", "path") if column in names]
    if not columns or "id" not in names:
        return pa.table({"id": pa.array([], pa.string())})
    table = parquet.read(columns=["id", *columns])
    if "image" in names and pa.types.is_struct(parquet.schema_arrow.field("image").type):
        paths = parquet.read(columns=["image.path"])["image"].combine_chunks().field("path")
        table = table.append_column("image.path", paths)
    return table


def drop_ids(table: pa.Table, ids: Collection[str]) -> pa.Table:
    """`table` without the rows of `ids`."""
    return table.filter(pc.invert(pc.is_in(table["id"], pa.array(sorted(ids), pa.string()))))


def erase_ids(data: Path, ids: Collection[str]) -> list[str]:
    """Remove `ids` from the data set in `data`; returns the names of the deleted files."""
    for batch in shards.batches(data):
        kept = [_rewrite_shard(data, name, ids) for name in batch.shards]
        failpoint("erase.shard")
        notes = [_rewrite_annotations(data / "annotations" / name, ids) for name in batch.annotations]
        changed = {"shards": [name for name in kept if name], "annotations": [name for name in notes if name]}
        if changed != {"shards": batch.shards, "annotations": batch.annotations}:
            rows = sum(_rows(data / name) for name in changed["shards"])
            shards.write_manifest(data, batch.model_copy(update=changed | {"rows": rows}))
            failpoint("erase.batch")
    for notes in annotation_batches(data):
        kept = [_rewrite_annotations(data / "annotations" / name, ids) for name in notes.files]
        if kept != notes.files:
            files = [name for name in kept if name]
            rows = sum(_rows(data / "annotations" / name) for name in files)
            write_annotation_manifest(data, notes.model_copy(update={"files": files, "rows": rows}))
            failpoint("erase.batch")
    gone = erase_changes(data, ids)
    failpoint("erase.batch")
    listed = shards.listed_files(data)
    for file in sorted([*data.glob("*.parquet"), *data.glob("annotations/*.parquet")]):
        if str(file.relative_to(data)) not in listed and _present(pq.ParquetFile(file), ids):
            file.unlink()
            gone.append(file.name)
            failpoint("erase.removed")
    return gone


def _rewrite_shard(data: Path, name: str, ids: Collection[str]) -> str | None:
    """Name of the shard with the remaining rows of shard `name`; None if no row remains."""
    with shards.open_shard(data / name) as file:
        if not (found := _present(file, ids)):
            return name
        if file.metadata.num_rows == len(found):
            return None
        version = shards.shard_version(data / name)
        return shards.write_shard(data, _remaining_rows(file, ids), shards.read_task(data), version)


def _remaining_rows(file: pq.ParquetFile, ids: Collection[str]) -> Iterator[pa.Table]:
    """The rows without `ids`, as tables of whole row groups."""
    held = None
    for batch in file.iter_batches(batch_size=shards.ROW_GROUP):
        rows = drop_ids(pa.Table.from_batches([batch]), ids)
        held = rows if held is None else pa.concat_tables([held, rows])
        if len(held) >= shards.ROW_GROUP:
            yield held.slice(0, shards.ROW_GROUP)
            held = held.slice(shards.ROW_GROUP)
    if held is not None and len(held):
        yield held


def _rewrite_annotations(file: Path, ids: Collection[str]) -> str | None:
    content = pa.BufferReader(read_named(file))
    if not _present(pq.ParquetFile(content), ids):
        return file.name
    rest = drop_ids(pq.read_table(content), ids)
    if len(rest) == 0:
        return None
    staged = file.with_name(".incoming.parquet")
    with atomic_path(staged) as temporary:
        pq.write_table(rest, temporary, compression="zstd")
    name = f"{sha256_file(staged)[:24]}.parquet"
    staged.rename(file.with_name(name))
    return name


def _rows(file: Path) -> int:
    with open_named(file) as content:
        return pq.ParquetFile(content).metadata.num_rows


def _parquet(file: Path | BinaryIO) -> pq.ParquetFile | None:
    """The opened file; None if it is not a Parquet file or is torn, so that nothing can be read from it."""
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


def _present(parquet: pq.ParquetFile, ids: Collection[str]) -> set[str]:
    column = parquet.read(columns=["id"])["id"]
    return set(column.filter(pc.is_in(column, pa.array(sorted(ids), pa.string()))).to_pylist())
