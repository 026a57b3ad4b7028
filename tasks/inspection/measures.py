"""Tables of the measures of whole shards, stored in the cache.

Ingest and stage inspect need the same measures: the first of them decodes the images, the other reads the cache.
"""

from collections.abc import Iterable, Sequence
from dataclasses import fields
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.common.code import code_version
from tasks.common.files import content_key
from tasks.common.params import ImagesParams, InspectParams
from tasks.common.paths import cache_dir
from tasks.common.schemas import MEASURES
from tasks.common.sealed import read_sealed, sealed_path
from tasks.dataset.decode import Undecodable
from tasks.dataset.shards import iter_bytes, read_columns
from tasks.inspection.measure import Measured, measure_all


def measures_table(ids: Sequence[str], results: Iterable[Measured | Undecodable]) -> pa.Table:
    """N rows: id, schemas.MEASURES, thumbnail (256 bytes), status ("ok", or the reason why the rest is null)."""
    names = [field.name for field in fields(Measured)]
    schema = pa.schema([("id", pa.string()), *MEASURES, ("thumbnail", pa.binary(256)), ("status", pa.string())])
    batches, results = [], iter(results)
    for start in range(0, len(ids), 4096):  # in Arrow a row takes a tenth of the memory of its Python objects
        part = ids[start : start + 4096]
        found = list(islice(results, len(part)))
        if len(found) < len(part):
            raise ValueError(f"got {len(ids)} ids but only {start + len(found)} measured images")
        columns = {"id": part, "status": [r.reason if isinstance(r, Undecodable) else "ok" for r in found]}
        for name in names:
            columns[name] = [getattr(r, name, None) for r in found]  # an Undecodable has none of these attributes
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
    """`measures_table` of a shard, row by row; decodes its images only if the cache has no entry."""
    shard = root / "data" / shard_name
    ids = read_columns(shard, ["id"]).column("id")
    if (cached := _read_cache(_cache_file(root, shard_name, images), ids)) is not None:
        return cached
    ids = ids.to_pylist()
    results = measure_all((data for _, data in iter_bytes(shard)), images.max_pixels, inspect.workers, images.bit_depth)
    table = measures_table(ids, results)
    store_measures(root, shard_name, images, table)
    return table


def _read_cache(file: Path, ids: pa.ChunkedArray) -> pa.Table | None:
    """A cache entry; None if it is missing, damaged or of other ids."""
    if (content := read_sealed(file)) is None:
        return None
    table = pq.read_table(pa.BufferReader(content))
    return table if table.num_rows == len(ids) and table.column("id").equals(ids) else None


def store_measures(root: Path, shard_name: str, images: ImagesParams, table: pa.Table) -> None:
    """Store the measures of a shard in the cache, so that `shard_measures` need not decode it again."""
    with sealed_path(_cache_file(root, shard_name, images)) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def _cache_file(root: Path, shard_name: str, images: ImagesParams) -> Path:
    layout = [(field.name, str(field.type)) for field in MEASURES]
    key = content_key(code_version("tasks.inspection.measures"), layout, images.max_pixels, images.bit_depth)[:16]
    return cache_dir("inspect", root) / key / f"{Path(shard_name).stem}.parquet"
