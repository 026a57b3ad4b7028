"""Model input of whole shards, decoded once: a memory-mapped uint8 array per shard and size.

Cache entry: <state>/cache/pixels/<key>/<shard>.npy, (rows, S, S, 3) uint8, rows as in the shard; rows that
cannot be decoded are grey. `key` covers the images section and the decoding code. Rebuilt when missing.
"""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from joblib import Parallel, delayed

from tasks.files import atomic_path, code_version, content_key
from tasks.gather import ShardTable
from tasks.images import Undecodable, preprocess
from tasks.params import ImagesParams
from tasks.paths import cache_dir
from tasks.progress import track
from tasks.shards import iter_bytes


def shard_pixels(root: Path, shard: str, images: ImagesParams, workers: int = -1) -> np.ndarray:
    """Memory-mapped (rows, S, S, 3) uint8 of the shard named `shard` of the project at `root`."""
    key = content_key(code_version("tasks.images"), images.model_dump())[:16]
    file = cache_dir("pixels", root) / key / f"{Path(shard).stem}.npy"
    if not file.is_file():
        _build(root / "data" / shard, file, images, workers)
    return np.load(file, mmap_mode="r")


def _build(shard: Path, file: Path, images: ImagesParams, workers: int) -> None:
    rows = pq.ParquetFile(shard).metadata.num_rows
    small = rows < 2000 or workers == 1  # starting processes costs more than decoding a small shard of thumbnails
    with atomic_path(file) as temporary:
        out = np.lib.format.open_memmap(temporary, "w+", np.uint8, (rows, images.size, images.size, 3))
        chunks = track(list(_chunks(rows)), f"decoding {shard.name[:8]}")
        if small:
            for chunk in chunks:
                out[chunk.start : chunk.stop] = _decode_rows(shard, chunk, images)
        else:
            pool = Parallel(n_jobs=workers, return_as="generator", pre_dispatch="2*n_jobs")
            jobs = (delayed(_decode_rows)(shard, chunk, images) for chunk in _chunks(rows))
            for chunk, block in zip(chunks, pool(jobs), strict=True):
                out[chunk.start : chunk.stop] = block
        out.flush()


def _chunks(rows: int, step: int = 256) -> Iterator[range]:
    for start in range(0, rows, step):
        yield range(start, min(start + step, rows))


def _decode_rows(shard: Path, chunk: range, images: ImagesParams) -> np.ndarray:
    block = np.full((len(chunk), images.size, images.size, 3), 128, np.uint8)
    for row, data in iter_bytes(shard, chunk):
        with suppress(Undecodable):  # inspect has quarantined it; the row keeps its place
            block[row - chunk.start] = preprocess(data, images.size, images.fit, images.max_pixels)
    return block


def pixel_table(root: Path, samples: pa.Table, images: ImagesParams, workers: int = -1) -> ShardTable:
    """Model inputs of `samples` on demand: `table[i]`, i of shape (B,), gives (B, S, S, 3) uint8."""
    return ShardTable(samples, lambda shard: shard_pixels(root, shard, images, workers))
