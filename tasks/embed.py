"""Stage `embed`: pretrained features, once per image and backbone.

Reads artifacts/validate/accepted.parquet; writes artifacts/embed/index.json (where each shard's features lie
in the cache, with their digests) and metrics/embed.json. For label cleaning, duplicates and leakage only: the
model's own features are stage 1's, see tasks.network.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tasks import frozen, models
from tasks.code import code_version
from tasks.errors import StageInputError
from tasks.features import Network, digest, feature_file, feature_folder, feature_table
from tasks.files import content_key, write_json
from tasks.gather import ShardTable
from tasks.params import EmbedParams, ImagesParams
from tasks.paths import cache_dir


def pretrained_features(root: Path, samples: pa.Table, *, embed: EmbedParams, images: ImagesParams) -> ShardTable:
    """Features of `samples` (columns shard, row) by the frozen pretrained backbone: (N, D) float16 on demand."""
    key = network_key(embed)
    return feature_table(root, samples, images, key, lambda: _network(root, embed, images), embed.batch_size)


def network_key(embed: EmbedParams) -> str:
    """Names the network: its weights, and the code that builds it here and in tasks.models and exports it in
    tasks.frozen. Covers this stage's `run` too, which decides no feature."""
    return content_key("pretrained", embed.backbone, code_version("tasks.embed"))


def _network(root: Path, embed: EmbedParams, images: ImagesParams) -> Network:
    exported = content_key(network_key(embed), images.size, embed.batch_size)[:16]
    return frozen.network(
        lambda: models.create(embed.backbone, "auto", 0, images.size),
        *models.normalisation(embed.backbone),
        size=images.size,
        batch_size=embed.batch_size,
        kept=cache_dir("networks", root) / f"{exported}.onnx",
    )


def run(root: Path, *, embed: EmbedParams, images: ImagesParams) -> None:
    """Compute what is missing and write the index. Raises StageInputError without accepted samples."""
    file = root / "artifacts" / "validate" / "accepted.parquet"
    if not file.is_file():
        raise StageInputError(f"{file} is missing: run the stage validate first")
    samples = pq.read_table(file, columns=["shard", "row"])
    if samples.num_rows == 0:
        raise StageInputError(f"{file} has 0 rows, at least 1 expected: see artifacts/validate/result.json")
    folder = feature_folder(root, images, network_key(embed))
    shards = sorted(set(samples.column("shard").to_pylist()))
    new = sum(not feature_file(folder, shard).is_file() for shard in shards)
    table = pretrained_features(root, samples, embed=embed, images=images)
    entries = {}
    for shard in shards:
        npy = feature_file(folder, shard)
        entries[shard] = {
            "rows": len(np.load(npy, mmap_mode="r")),
            "file": npy.relative_to(folder.parent.parent).as_posix(),  # below <state>/cache
            "sha256": digest(npy),
        }
    about = {"backbone": embed.backbone, "dim": table.shape[1], "key": folder.name, "dtype": "float16"}
    write_json(root / "artifacts" / "embed" / "index.json", {**about, "shards": entries})
    write_json(
        root / "metrics" / "embed.json", {"rows": samples.num_rows, "shards": len(shards), "dim": table.shape[1]}
    )
    print(f"embed: {samples.num_rows} samples, {new} of {len(shards)} shards new")


if __name__ == "__main__":
    from tasks.stage import main

    main("embed")
