"""Measures of whole shards as tables, kept in the cache."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tasks.dataset.decode import Undecodable
from tasks.inspection.measure import Measured, measure_all

if TYPE_CHECKING:
    import pyarrow as pa

    from tasks.common.params import ImagesParams, InspectParams


def measures_table(ids: Sequence[str], results: Iterable[Measured | Undecodable]) -> pa.Table:
    """N rows: id, schemas.MEASURES, thumbnail (256 bytes), status ("ok" or why there are only nulls)."""
    import pyarrow as pa

    from tasks.common.schemas import MEASURES

    names = [field.name for field in fields(Measured)]
    schema = pa.schema([("id", pa.string()), *MEASURES, ("thumbnail", pa.binary(256)), ("status", pa.string())])
    batches, results = [], iter(results)
    for start in range(0, len(ids), 4096):  # as Arrow, a row takes a tenth of what its objects take
        part = ids[start : start + 4096]
        found = list(islice(results, len(part)))
        if len(found) < len(part):
            raise ValueError(f"{len(ids)} ids but only {start + len(found)} measured images")
        columns = {"id": part, "status": [r.reason if isinstance(r, Undecodable) else "ok" for r in found]}
        for name in names:
            columns[name] = [getattr(r, name, None) for r in found]  # an Undecodable has none of them
        batches.append(pa.record_batch([pa.array(columns[f.name], f.type) for f in schema], schema=schema))
    return pa.Table.from_batches(batches, schema)


def thumbnails(column: pa.ChunkedArray) -> np.ndarray:
    """The `thumbnail` column as (N, 256) uint8; zeros where it is null."""
    parts = [np.empty((0, 256), np.uint8)]
    for chunk in column.chunks:
        values = np.frombuffer(chunk.buffers()[1], np.uint8).reshape(-1, 256)[chunk.offset : chunk.offset + len(chunk)]
        parts.append(np.where(chunk.is_valid().to_numpy(zero_copy_only=False)[:, None], values, np.uint8(0)))
    return np.concatenate(parts)


def shard_measures(root: Path, shard_name: str, images: ImagesParams, inspect: InspectParams) -> pa.Table:
    """`measures_table` of a shard, row by row; decodes only what no earlier run has."""
    from tasks.dataset.shards import iter_bytes, read_columns

    shard = root / "data" / shard_name
    ids = read_columns(shard, ["id"]).column("id")
    if (known := _stored(_cache_file(root, shard_name, images), ids)) is not None:
        return known
    ids = ids.to_pylist()
    results = measure_all((data for _, data in iter_bytes(shard)), images.max_pixels, inspect.workers)
    table = measures_table(ids, results)
    store_measures(root, shard_name, images, table)
    return table


def _stored(file: Path, ids: pa.ChunkedArray) -> pa.Table | None:
    """A cache entry, if it is there, whole, and of these ids; a torn one is only a miss."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(file)
    except (OSError, pa.ArrowInvalid):
        return None
    return table if table.num_rows == len(ids) and table.column("id").equals(ids) else None


def store_measures(root: Path, shard_name: str, images: ImagesParams, table: pa.Table) -> None:
    """Keep the measures of a shard's rows, so that `shard_measures` need not decode them again."""
    import pyarrow.parquet as pq

    from tasks.common.files import atomic_path

    with atomic_path(_cache_file(root, shard_name, images)) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def _cache_file(root: Path, shard_name: str, images: ImagesParams) -> Path:
    from tasks.common.code import code_version
    from tasks.common.files import content_key
    from tasks.common.paths import cache_dir
    from tasks.common.schemas import MEASURES

    layout = [(field.name, str(field.type)) for field in MEASURES]
    key = content_key(code_version("tasks.inspection.measures"), layout, images.max_pixels)[:16]
    return cache_dir("inspect", root) / key / f"{Path(shard_name).stem}.parquet"
