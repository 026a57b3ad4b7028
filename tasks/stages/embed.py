"""Stage `embed`: computes pretrained features, once per image and backbone.

Reads artifacts/inspect/samples.parquet, so a new label changes nothing here. Writes artifacts/embed/index.json (the
place of each shard's features in the cache, with digests) and metrics/embed.json. Pretrained features serve label
cleaning, duplicates and leakage only; the model itself uses stage-1 features (tasks.models.stage1).
"""

from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.backbones.features import feature_file, feature_folder
from tasks.common.errors import StageInputError
from tasks.common.files import write_json
from tasks.common.params import EmbedParams, ImagesParams
from tasks.common.sealed import seal_of
from tasks.dataset.pixels import open_array
from tasks.models.pretrained import network_key, pretrained_features


def run(root: Path, *, embed: EmbedParams, images: ImagesParams) -> None:
    """Compute the missing features and write the index. Raises StageInputError without an image."""
    file = root / "artifacts" / "inspect" / "samples.parquet"
    if not file.is_file():
        raise StageInputError(f"{file} is missing: run the stage inspect first")
    samples = pq.read_table(file, columns=["shard", "row"], filters=pc.field("status") == "ok")
    if samples.num_rows == 0:
        raise StageInputError(f"{file} has no image that can be decoded: see metrics/inspect.json")
    folder = feature_folder(root, images, network_key(embed))
    shards = sorted(set(samples.column("shard").to_pylist()))
    new = sum(not feature_file(folder, shard).is_file() for shard in shards)
    table = pretrained_features(root, samples, embed=embed, images=images)
    entries = {}
    for shard in shards:
        npy = feature_file(folder, shard)
        entries[shard] = {
            "rows": len(open_array(npy)),
            "file": npy.relative_to(folder.parent.parent).as_posix(),  # relative to <state>/cache
            "sha256": seal_of(npy),
        }
    about = {"backbone": embed.backbone, "dim": table.shape[1], "key": folder.name, "dtype": "float16"}
    write_json(root / "artifacts" / "embed" / "index.json", {**about, "shards": entries})
    write_json(
        root / "metrics" / "embed.json", {"rows": samples.num_rows, "shards": len(shards), "dim": table.shape[1]}
    )
    print(f"embed: {samples.num_rows} samples, {new} of {len(shards)} shards new")
