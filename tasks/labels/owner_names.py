"""The owner's names of samples, to show beside their ids: key and path."""

from collections.abc import Collection
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from tasks.dataset.shards import live_shards, read_columns, read_image_paths


def owner_names(root: Path, ids: Collection[str]) -> dict[str, str]:
    """id -> key and path, for those of `ids` that data/ of the project `root` holds and that have one."""
    wanted, found = pa.array(sorted(set(ids)), pa.string()), {}
    for shard in live_shards(root / "data") if len(wanted) and (root / "data/dataset.json").is_file() else ():
        rows = read_columns(shard.path, ["id", "key"])
        rows = rows.append_column("row", pa.array(range(len(rows)), pa.int32()))
        rows = rows.filter(pc.is_in(rows["id"], wanted))
        if len(rows):
            paths = read_image_paths(root, rows.append_column("shard", pa.array([shard.name] * len(rows))))
            for image, key, path in zip(rows["id"].to_pylist(), rows["key"].to_pylist(), paths, strict=True):
                if name := ", ".join(filter(None, (key, path))):
                    found.setdefault(image, name)
    return found
