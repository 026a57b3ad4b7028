"""What the project's tables know about the images to erase, read before these tables are cleaned."""

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.erasure.traces import Traces, encoded_prints, own_names

USED = ("label", "source", "group")  # columns whose values are names of something else


@dataclass
class Known:
    """Keys, paths and pictures of the images, and names that belong to other things."""

    named: set[tuple[str, str]] = field(default_factory=set)  # (key or path, id)
    pictures: dict[str, bytes] = field(default_factory=dict)  # id -> encoded
    used: set[str] = field(default_factory=set)

    def traces(self, ids: Collection[str]) -> Traces:
        """What to look for."""
        names, _ = own_names(self.named, ids, self.used)
        return Traces(ids=sorted(ids), names=names, pictures=encoded_prints(self.pictures.values()))


def learn(known: Known, file: Path | BinaryIO, ids: Collection[str]) -> None:
    """Add what a Parquet file says about `ids`."""
    if (parquet := _open(file)) is None:
        return
    column = parquet.read(columns=["id"])["id"].combine_chunks()
    rows = pc.indices_nonzero(pc.is_in(column, pa.array(sorted(ids), pa.string())))
    if not len(rows):
        return
    table = _names(parquet).take(rows)
    for row in table.to_pylist():
        known.named |= {(row[name], row["id"]) for name in row if name != "id" and row[name]}
    missing = [
        place
        for place, name in zip(rows.to_pylist(), column.take(rows).to_pylist(), strict=True)
        if name not in known.pictures
    ]
    if missing:
        _learn_pictures(known, parquet, missing)


def learn_others(known: Known, file: Path | BinaryIO, ids: Collection[str]) -> None:
    """Add the names of other images that may be the same as theirs, and names of classes, sources and groups."""
    if (parquet := _open(file)) is None or not known.named:
        return
    ends = pa.array(sorted({name.rsplit("/", 1)[-1] for name, _ in known.named}), pa.string())
    table = _names(parquet)
    for name in table.column_names[1:]:
        last = pc.replace_substring_regex(table[name], "^.*/", "")
        near = table.filter(pc.and_(pc.is_in(last, ends, skip_nulls=True), pc.is_valid(table[name])))
        known.named |= {(row[name], row["id"]) for row in near.select(["id", name]).to_pylist() if row["id"] not in ids}
    for name in USED:
        if name in parquet.schema_arrow.names and pa.types.is_string(parquet.schema_arrow.field(name).type):
            known.used |= set(pc.unique(parquet.read(columns=[name])[name].drop_null()).to_pylist())


def _open(file: Path | BinaryIO) -> pq.ParquetFile | None:
    """The Parquet file, if it has a column of ids."""
    try:
        parquet = pq.ParquetFile(file)
    except (OSError, pa.ArrowException):
        return None
    schema = parquet.schema_arrow
    return parquet if "id" in schema.names and pa.types.is_string(schema.field("id").type) else None


def _names(parquet: pq.ParquetFile) -> pa.Table:
    """The columns id, key and path, as far as the file has them."""
    schema = parquet.schema_arrow
    table = parquet.read(columns=[n for n in ("id", "key", "path") if n in schema.names and _is_text(schema.field(n))])
    if "image" in schema.names and pa.types.is_struct(schema.field("image").type):
        paths = parquet.read(columns=["image.path"])["image"].combine_chunks()
        table = table.append_column("image.path", pc.struct_field(paths, "path").cast(pa.string()))
    return table


def _learn_pictures(known: Known, parquet: pq.ParquetFile, rows: list[int]) -> None:
    """Add the encoded image, or else the thumbnail, of `rows`, with one row group in memory at a time."""
    schema, first = parquet.schema_arrow, 0
    held = [
        n
        for n in ("image", "thumbnail")
        if n in schema.names and not pa.types.is_fixed_size_binary(schema.field(n).type)
    ]
    for group in range(parquet.num_row_groups if held else 0):
        count = parquet.metadata.row_group(group).num_rows
        inside = [row - first for row in rows if first <= row < first + count]
        first += count
        if not inside:
            continue
        for row in parquet.read_row_group(group, columns=["id", *held]).take(pa.array(inside)).to_pylist():
            image = row.get("image")
            content = (image["bytes"] if isinstance(image, dict) else image) or row.get("thumbnail")
            if content:
                known.pictures.setdefault(row["id"], content)


def _is_text(field: pa.Field) -> bool:
    return pa.types.is_string(field.type) or pa.types.is_large_string(field.type)
