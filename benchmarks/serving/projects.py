"""Projects with a live model of the wanted size, and images for it."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.capture import photos
from tests.support import live_project, small_project
from tests.support.checkout import ROOT
from tests.support.shared import place

SMALL = small_project.SIZE  # of quick passes: the tests have made its model
ONE_WORKER = {"cache_mb: 64": "cache_mb: 0", "workers: 2": "workers: 1"}  # one core, and every answer computed
MODELS = {"lite0 at 224 pixels": 224, "the demo's model": 48}


def make(folder: Path, size: int, **settings: str) -> Path:
    """A project whose live model reads `size` pixels. settings: "old line": "new line" of params.yaml."""
    if size != small_project.SIZE:
        place(folder / "shared")
        small_project.SIZE = size
    return live_project.make(folder, replace=settings)


def images(size: int, count: int) -> list[bytes]:
    """Photos of 640 pixels for a large model, the data set's own images for a small one; each is another image."""
    if size > 100:
        return photos(count)
    table = pq.read_table(ROOT / "datasets/fashion/production-1.parquet", columns=["image"])
    return table["image"].combine_chunks().field("bytes").to_pylist()[:count]


def write(file: Path, found: list[bytes]) -> Path:
    """`found` as a file for benchmarks.serving.bare."""
    pq.write_table(pa.table({"image": found}), file)
    return file
