"""Read Parquet manifests as records: images stay in Arrow until their row is reached."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tasks.common.errors import DataError
from tasks.common.written import LFS_ADVICE, is_lfs_pointer
from tasks.sources.fields import Unusable
from tasks.sources.records import ALIASES, Columns, Record, find_columns

BATCH = 64  # rows at a time


def parquet_records(file: Path, columns: Columns, images: bool) -> Iterator[Record]:
    """Parquet, BATCH rows at a time and without read-ahead: memory stays far below a row group of photos."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with open(file, "rb") as content:
            if is_lfs_pointer(content.read(64)):
                raise DataError(f"{file}: {LFS_ADVICE}")
        parquet = pq.ParquetFile(file, pre_buffer=False, buffer_size=1 << 20)
        schema = parquet.schema_arrow
        names_of = class_label_names(schema.metadata)
        roles = find_columns(schema.names, columns, str(file), list(names_of))
        wanted = {getattr(roles, role) for role in ALIASES} | set(roles.slices)
        taken = [n for n in schema.names if n in wanted or n == "slice" or n.startswith("slice_")]
        if not images:
            taken.remove(roles.image)
        number = 0
        for batch in parquet.iter_batches(batch_size=BATCH, columns=taken):
            columns_of = {name: _values(batch.column(name)) for name in taken}
            for row in range(batch.num_rows):
                record = {name: values[row] for name, values in columns_of.items()}
                record = {n: v.as_py() if isinstance(v, pa.Scalar) else v for n, v in record.items()}
                if roles.label in names_of:
                    record[roles.label] = label_name(record[roles.label], names_of[roles.label])
                yield f"{file.name} row {number}", roles, record
                number += 1
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file} cannot be read as Parquet: {error}") from None


def _values(column: Any) -> Any:
    """A Parquet column as Python values; images stay in Arrow until their row is reached."""
    import pyarrow as pa

    if pa.types.is_struct(column.type) or pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):
        return column
    if pa.types.is_timestamp(column.type):  # a datetime cannot hold nanoseconds and unknown zones
        column = column.cast(pa.timestamp("us", tz="UTC"), safe=False)
    try:
        return column.to_pylist()
    except (ValueError, OverflowError):  # a time outside the years 1 to 9999: only its row fails
        return column.cast(pa.string()).to_pylist()


def class_label_names(metadata: dict[bytes, bytes] | None) -> dict[str, list[str]]:
    """Column -> class names, for the columns that Hugging Face's metadata declares as ClassLabel or a list of it."""
    found = {}
    try:
        features = json.loads((metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        for name, feature in features.items():
            inner = feature[0] if isinstance(feature, list) else feature
            while isinstance(inner, dict) and inner.get("_type") in ("List", "LargeList", "Sequence"):
                inner = inner["feature"]
            if isinstance(inner, dict) and inner.get("_type") == "ClassLabel":
                found[name] = [str(value) for value in inner["names"]]
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        return {}  # metadata of another form: use the column's values as they are
    return found


def label_name(value: Any, names: list[str]) -> Any:
    """ClassLabel numbers as names; the `datasets` library writes -1 for a missing label."""
    if isinstance(value, list):
        return [label_name(part, names) for part in value]
    if isinstance(value, int) and not isinstance(value, bool):
        if value == -1:
            return None
        return names[value] if 0 <= value < len(names) else Unusable("bad_label", f"{value}, of {len(names)} classes")
    return value
