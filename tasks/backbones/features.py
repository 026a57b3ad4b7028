"""Cache of the features of whole shards: one memory-mapped float16 array per shard.

Cache entry: <state>/cache/features/<folder>/<shard>.npy, (rows, D) float16, in the row order of the shard, and next to
it its seal (tasks.common.sealed): each process hashes an entry when it first opens it. The folder's name covers the
network (`key`), the images section and the code between bytes and network. So a new batch computes only its own shards.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa

from tasks.backbones.frozen import OnnxFeatures
from tasks.common.code import code_version
from tasks.common.files import content_key
from tasks.common.params import ImagesParams
from tasks.common.paths import cache_dir
from tasks.common.progress import track
from tasks.common.sealed import sealed_path
from tasks.dataset.pixels import npy_header, open_array, pixel_batches, shard_pixels
from tasks.dataset.shard_table import ShardTable

Network = Callable[[np.ndarray], np.ndarray]  # uint8 (B, S, S, 3) -> float32 (B, D)


def feature_folder(root: Path, images: ImagesParams, key: str) -> Path:
    """The cache folder of the features that the network identified by `key` computes."""
    return (
        cache_dir("features", root)
        / content_key(key, images.model_dump(), code_version("tasks.backbones.features"))[:16]
    )


def feature_table(
    root: Path, samples: pa.Table, images: ImagesParams, key: str, build: Callable[[], Network], batch_size: int
) -> ShardTable:
    """Features of `samples` (columns shard, row; N rows), read on demand: `table[i]` gives (B, D) float16.

    `key` identifies the network: its weights, code and input scaling. `build` creates the network; it is called only
    if the features of a shard are missing or damaged, so that a warm call imports no torch.
    """
    folder = feature_folder(root, images, key)
    shards = sorted(set(samples.column("shard").to_pylist()))
    maps = {shard: open_array(feature_file(folder, shard)) for shard in shards}
    missing = [shard for shard in shards if maps[shard] is None]
    if missing:
        network = build()
        for number, shard in enumerate(missing, 1):
            what = f"features, shard {number} of {len(missing)}"
            rows = len(shard_pixels(root, shard, images))
            batches = track(pixel_batches(root, shard, images, batch_size), what, -(-rows // batch_size))
            _compute(feature_file(folder, shard), rows, batches, network)
            maps[shard] = open_array(feature_file(folder, shard))
    return ShardTable(samples, maps.__getitem__)


def feature_file(folder: Path, shard: str) -> Path:
    """The file with the features of `shard` in the cache folder `folder`."""
    return folder / f"{Path(shard).stem}.npy"


def _compute(file: Path, rows: int, batches: Iterable[tuple[slice, np.ndarray]], network: Network) -> None:
    with sealed_path(file) as temporary, open(temporary, "wb") as out:
        for part, values in compute_batches(network, batches):
            if part.start == 0:
                npy_header(out, np.float16, (rows, values.shape[1]))
            out.write(np.ascontiguousarray(values).data)


def compute_batches(
    network: Network, batches: Iterable[tuple[slice, np.ndarray]]
) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield (slice, float16 features) of each batch, in order.

    With ONNX Runtime each core computes its own batch: cores that share a batch of small images wait for each other
    half of the time.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not isinstance(network, OnnxFeatures) or cores == 1:
        yield from ((part, _to_float16(network(pixels))) for part, pixels in batches)
        return
    with ThreadPoolExecutor(cores) as pool:
        waiting: deque = deque()
        for part, pixels in batches:
            waiting.append((part, pool.submit(lambda pixels: _to_float16(network(pixels)), pixels)))
            if len(waiting) > cores:
                done, values = waiting.popleft()
                yield done, values.result()
        yield from ((done, values.result()) for done, values in waiting)


def _to_float16(values: np.ndarray) -> np.ndarray:
    """Convert to float16, clipping values that float16 cannot hold; NaN stays, so that later checks see it."""
    top = np.finfo(np.float16).max
    return np.clip(values, -top, top).astype(np.float16)
