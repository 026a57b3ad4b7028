"""Fill the features of the trained network by a Ray cluster, before stages read them.

The driver exports the network once and reads the cached pixels; a task computes the features of one batch. The batches
are those of `tasks.models.stage1.stage1_features`, so the entries are the ones that the stage would make.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np

from flows.scale.carried import Carried, carry
from flows.scale.scratch import scratch_folder
from flows.scale.spread import spread
from tasks.backbones.features import compute_batches, feature_file, feature_folder
from tasks.backbones.frozen import OnnxFeatures, frozen_network
from tasks.common.artifacts import network_weights, trained_weights, training_rows
from tasks.common.code import code_version
from tasks.common.files import content_key, sha256_file
from tasks.common.params import ImagesParams, Params
from tasks.common.sealed import sealed_path
from tasks.dataset.pixels import npy_header, open_array, pixel_batches, shard_pixels
from tasks.models import stage1

BATCH = 64  # images, as in stage1_features
LEAST = 2  # batches; a single one is computed by the stage
EXPORTED = "network.onnx"


@dataclass(frozen=True)
class _Batch:
    """The pixels of some rows of a shard."""

    shard: str
    rows: slice
    pixels: np.ndarray  # (B, S, S, 3) uint8

    @property
    def nbytes(self) -> int:
        """What the item weighs in flight."""
        return self.pixels.nbytes

    def __str__(self) -> str:
        return f"features of rows {self.rows.start} to {self.rows.stop} of shard {self.shard[:8]}"


def fill_stage1(stage: str, root: Path, params: Params, say: Callable[[str], object] = print) -> int:
    """Fill the features that `stage`, train_head or calibrate, will read; returns how many shards were missing.

    Where this machine has an accelerator, or the network cannot be exported, the stage computes them here.
    """
    weights = trained_weights(root) if stage == "train_head" else network_weights(root)
    folder, rows = entry_folder(root, params.images, weights), training_rows(root)
    shards = sorted({name for split in ("train", "calibration") for name in rows[split]["shard"].to_pylist()})
    missing = [shard for shard in shards if open_array(feature_file(folder, shard)) is None]
    sizes = {shard: len(shard_pixels(root, shard, params.images)) for shard in missing}
    if sum(-(-size // BATCH) for size in sizes.values()) < LEAST:
        return 0
    if (network := _exported(root, weights)) is None:
        return 0
    batches = (
        _Batch(shard, part, pixels)
        for shard in missing
        for part, pixels in pixel_batches(root, shard, params.images, BATCH)
    )
    found = spread(_Features(network), batches, params.scale, say=say)
    for shard, parts in groupby(found, key=lambda part: part[0]):
        _write(feature_file(folder, shard), sizes[shard], (values for _, values in parts))
    return len(missing)


def entry_folder(root: Path, images: ImagesParams, weights: Path) -> Path:
    """Where stage1_features keeps the features of the network with these weights."""
    key = content_key("stage1", sha256_file(weights), images.model_dump(), code_version("tasks.models.stage1"))[:16]
    return feature_folder(root, images, key)


def _exported(root: Path, weights: Path) -> Carried | None:
    """The network as ONNX; None where torch computes its features."""
    model, about = stage1.load(root, weights)
    with scratch_folder("evergreen-network-") as folder:
        file, size = folder / EXPORTED, about["resolution"]
        network = frozen_network(
            lambda: model, about["mean"], about["std"], size=size, batch_size=BATCH, export_file=file
        )
        return carry(folder, [EXPORTED]) if isinstance(network, OnnxFeatures) else None


@dataclass(frozen=True)
class _Features:
    network: Carried

    def __call__(self, batch: _Batch) -> tuple[str, np.ndarray]:
        network = self.network.loaded(_network)
        # a plain function: compute_batches would spread an OnnxFeatures over the cores, and this task has one
        ((_, values),) = compute_batches(lambda pixels: network(pixels), [(batch.rows, batch.pixels)])
        return batch.shard, values


def _network(folder: Path) -> OnnxFeatures:
    return OnnxFeatures((folder / EXPORTED).read_bytes())


def _write(file: Path, rows: int, parts: Iterator[np.ndarray]) -> None:
    """Write a feature entry, (rows, D) float16, from its parts in order."""
    with sealed_path(file) as temporary, open(temporary, "wb") as out:
        for number, values in enumerate(parts):
            if not number:
                npy_header(out, np.float16, (rows, values.shape[1]))
            out.write(np.ascontiguousarray(values).data)
