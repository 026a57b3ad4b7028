"""Units of work: cache entries of whole shards that a stage will read, and how to make one.

A unit calls the functions of the stages, so its entry is the one that the stage itself would make, under the same key.
The stage finds it, or makes it where a unit was not done. Nothing in tasks/ knows of this.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.backbones.features import feature_file, feature_folder, feature_table
from tasks.common.artifacts import network_rows
from tasks.common.code import code_version
from tasks.common.files import content_key
from tasks.common.params import EmbedParams, ImagesParams, InspectParams, Params
from tasks.common.paths import cache_dir
from tasks.common.sealed import open_sealed
from tasks.dataset.pixels import shard_pixels
from tasks.dataset.shards import live_shards, open_shard, read_tombstones
from tasks.inspection.measures import _cache_file as measures_file
from tasks.inspection.measures import shard_measures
from tasks.models import pretrained

Kind = Literal["measures", "pixels", "features"]
FILLED = ("inspect", "embed", "train_backbone")  # the stages whose entries `missing` knows


@dataclass(frozen=True)
class Unit:
    """One cache entry of one shard."""

    kind: Kind
    shard: str
    file: str  # the entry, relative to <state>/cache
    images: ImagesParams
    embed: EmbedParams | None = None  # of features
    needs: tuple[str, ...] = ()  # entries, relative to <state>/cache, that the work reads

    def __str__(self) -> str:
        return f"{self.kind} of shard {self.shard[:8]}"


def missing(stage: str, root: Path, params: Params) -> list[Unit]:
    """The entries that `stage` will read in the project at `root` and that are missing or damaged there.

    Those before `stage` have run. A damaged entry is deleted, as when a stage finds it.
    """
    if stage == "inspect":
        found = (measures(root, one.name, params.images) for one in live_shards(root / "data", read_tombstones(root)))
    elif stage == "embed":
        samples = pq.read_table(
            root / "artifacts/inspect/samples.parquet", columns=["shard"], filters=pc.field("status") == "ok"
        )
        found = (features(root, shard, params.images, params.embed) for shard in _shards(samples))
    elif stage == "train_backbone":
        found = of_training(root, params)
    else:
        return []
    cache = cache_dir("inspect", root).parent
    return [unit for unit in dict.fromkeys(found) if not _whole(cache / unit.file)]


def of_training(root: Path, params: Params) -> Iterator[Unit]:
    """Pixels of all that is trained and validated on, and features of the backbone if `embed` has those of another.

    With `tuning: auto` the training images twice: its trials read them at the side of the input.
    """
    from tasks.stages.train_backbone.augment.limits import decoded_side

    section = params.train_backbone
    larger = params.images.model_copy(update={"resolution": decoded_side(params.images.resolution, section)})
    rows = network_rows(root)
    trials = [("train", params.images)] if section.tuning == "auto" else []
    for split, images in (("train", larger), *trials, ("calibration", params.images)):
        for shard in _shards(rows[split]):
            yield pixels(root, shard, images)
            if section.pretrained != "none":
                yield features(root, shard, params.images, EmbedParams(backbone=section.backbone))


def _shards(table: pa.Table) -> list[str]:
    return sorted(pc.unique(table["shard"]).to_pylist())


def _whole(entry: Path) -> bool:
    """Whether the entry can be read. This process hashes it once, so the stage need not do it again."""
    if (opened := open_sealed(entry)) is None:
        return False
    opened.close()
    return True


def measures(root: Path, shard: str, images: ImagesParams) -> Unit:
    """The unit of `shard_measures`."""
    return Unit("measures", shard, _relative(root, measures_file(root, shard, images)), images)


def pixels(root: Path, shard: str, images: ImagesParams) -> Unit:
    """The unit of `shard_pixels`."""
    key = content_key(code_version("tasks.dataset.pixels"), images.model_dump())[:16]  # as in shard_pixels
    return Unit("pixels", shard, f"pixels/{key}/{Path(shard).stem}.npy", images)


def features(root: Path, shard: str, images: ImagesParams, embed: EmbedParams) -> Unit:
    """The unit of `pretrained_features`, which reads the exported network if there is one."""
    folder = feature_folder(root, images, pretrained.network_key(embed))
    exported = network_file(root, images, embed)
    return Unit(
        "features",
        shard,
        _relative(root, feature_file(folder, shard)),
        images,
        embed,
        needs=(_relative(root, exported),),
    )


def network_file(root: Path, images: ImagesParams, embed: EmbedParams) -> Path:
    """Where the exported network of these features lies, if the machine computes them with ONNX Runtime."""
    key = content_key(pretrained.network_key(embed), images.resolution, embed.batch_size)[:16]  # as in pretrained
    return cache_dir("networks", root) / f"{key}.onnx"


def prepare(root: Path, units: Iterable[Unit]) -> None:
    """Export the networks that `units` need: once here, and not in each worker."""
    for images, embed in dict.fromkeys((unit.images, unit.embed) for unit in units if unit.kind == "features"):
        pretrained._network(root, embed, images)


def make(unit: Unit, root: Path) -> None:
    """Make the entry of `unit` in the project at `root`, with one process and one thread of computation."""
    if unit.kind == "measures":
        shard_measures(root, unit.shard, unit.images, InspectParams(workers=1))
        return
    shard_pixels(root, unit.shard, unit.images, threads=1)
    if unit.kind == "features":
        with open_shard(root / "data" / unit.shard) as opened:
            rows = opened.metadata.num_rows
        samples = pa.table({"shard": [unit.shard] * rows, "row": range(rows)})
        feature_table(
            root,
            samples,
            unit.images,
            pretrained.network_key(unit.embed),
            lambda: _one_thread(pretrained._network(root, unit.embed, unit.images)),
            unit.embed.batch_size,
        )


def _one_thread(network):
    """`network` as a function that `compute_batches` does not spread over the node's cores: Ray gives each task one."""
    return lambda pixels: network(pixels)


def _relative(root: Path, file: Path) -> str:
    return file.relative_to(cache_dir("inspect", root).parent).as_posix()
