"""Cache of the model inputs of whole shards: one memory-mapped uint8 array per shard, decoded once.

Cache entry: <state>/cache/pixels/<key>/<shard>.npy, (rows, S, S, 3) uint8, in the row order of the shard; rows that
cannot be decoded are grey. `key` covers the images section and the decoding code. A missing or damaged entry is
rebuilt: each process hashes an entry when it first opens it (tasks.common.sealed).
"""

from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa

from tasks.common.code import code_version
from tasks.common.cores import on_all_cores
from tasks.common.errors import DamagedFile
from tasks.common.files import content_key
from tasks.common.params import ImagesParams
from tasks.common.paths import cache_dir
from tasks.common.progress import track
from tasks.common.sealed import open_sealed, seal_of, sealed_path
from tasks.dataset.decode import PREPROCESS, Undecodable, preprocess
from tasks.dataset.shard_table import ShardTable
from tasks.dataset.shards import iter_bytes, open_shard

THREADS = 16  # that decode, at most
AT_ONCE = 16  # images that a thread gets: a shard of large photos has few
REMEDY = "It was made again and is damaged again: check the disk"


def shard_pixels(root: Path, shard: str, images: ImagesParams, threads: int = THREADS) -> np.ndarray:
    """Memory-mapped (rows, S, S, 3) uint8 of the shard with file name `shard` in the project at `root`.

    threads: that decode what is missing, but no more than there are cores.
    """
    key = content_key(code_version("tasks.dataset.pixels"), images.model_dump())[:16]
    file = cache_dir("pixels", root) / key / f"{Path(shard).stem}.npy"
    if (found := open_array(file)) is None:
        _build(root / "data" / shard, file, images, threads)
        found = open_array(file)
    if found is None:
        raise DamagedFile(file, seal_of(file), None, remedy=REMEDY)
    return found


def open_array(file: Path) -> np.ndarray | None:
    """The memory map of a sealed .npy file; None if it is missing, or was damaged and is deleted now."""
    if (opened := open_sealed(file)) is None:
        return None
    with opened:
        if np.lib.format.read_magic(opened) != (1, 0):
            return None
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(opened)
        order = "F" if fortran else "C"
        return np.memmap(opened, dtype=dtype, shape=shape, order=order, mode="r", offset=opened.tell())


def pixel_batches(root: Path, shard: str, images: ImagesParams, size: int) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield (slice, copy of those rows) of `shard_pixels` in order, `size` rows at a time.

    Each batch opens its own memory map: the pages of a single map would add up to the whole file in memory.
    """
    rows = len(shard_pixels(root, shard, images))
    for start in range(0, rows, size):
        part = slice(start, min(start + size, rows))
        yield part, np.array(shard_pixels(root, shard, images)[part])


def _build(shard: Path, file: Path, images: ImagesParams, threads: int) -> None:
    with open_shard(shard) as opened:
        rows = opened.metadata.num_rows
    # not through a memory map, whose pages would stay in memory
    with sealed_path(file) as temporary, open(temporary, "wb") as out:
        npy_header(out, np.uint8, (rows, images.resolution, images.resolution, 3))
        # threads, because Pillow decodes without the interpreter's lock, and processes take seconds to start
        blocks = on_all_cores(lambda part: _decoded(part, images), _encoded(shard), threads)
        for block in track(blocks, f"decoding {shard.name[:8]}", -(-rows // AT_ONCE)):
            out.write(block.data)


def _encoded(shard: Path) -> Iterator[list[bytes]]:
    """The encoded images of all rows, AT_ONCE at a time."""
    images = (data for _, data in iter_bytes(shard))
    while part := list(islice(images, AT_ONCE)):
        yield part


def _decoded(encoded: list[bytes], images: ImagesParams) -> np.ndarray:
    block = np.full((len(encoded), images.resolution, images.resolution, 3), 128, np.uint8)
    for row, data in enumerate(encoded):
        with suppress(Undecodable):  # inspect has quarantined it: leave the row grey
            block[row] = preprocess(data, *(getattr(images, key) for key in PREPROCESS))
    return block


def npy_header(file: BinaryIO, dtype: type, shape: tuple[int, ...]) -> None:
    """Write the header of a .npy file; the caller then appends the rows in order."""
    about = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, about)


def pixel_table(root: Path, samples: pa.Table, images: ImagesParams) -> ShardTable:
    """Model inputs of `samples`, read on demand: `table[i]` with i of shape (B,) gives (B, S, S, 3) uint8."""
    return ShardTable(samples, lambda shard: shard_pixels(root, shard, images))
