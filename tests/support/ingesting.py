"""Helpers of the ingest tests: make sources, ingest them, read what data/ then holds."""

import csv
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from tasks.common.files import sha256_bytes
from tasks.common.params import DataParams, ImagesParams, InspectParams
from tasks.dataset import shards
from tasks.ingest.batch import ingest
from tasks.labels.annotations import read_annotations
from tests.support.photos import encode

IMAGES, INSPECT = ImagesParams(), InspectParams(workers=1)


def take(root: Path, source: Path, **options):
    data = options.pop("data", DataParams())
    return ingest(root, source, data=data, images=IMAGES, inspect=INSPECT, **options)


def noise(seed: int, side: int = 24) -> Image.Image:
    """An image of coarse random blocks: two seeds never give near-duplicates."""
    blocks = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(blocks).resize((side, side), Image.Resampling.NEAREST)


def folder(root: Path, count: int, start: int = 0, classes: str = "ab") -> Path:
    """`count` distinct images in class folders."""
    for number in range(start, start + count):
        file = root / classes[number % len(classes)] / f"{number:04d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encode(noise(number)))
    return root


def manifest(root: Path, rows: list[dict], name: str = "m.csv") -> Path:
    root.mkdir(parents=True, exist_ok=True)
    names = list(dict.fromkeys(key for row in rows for key in row))
    with open(root / name, "w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)
    return root / name


def image(root: Path, name: str, content: Image.Image | bytes, **options) -> str:
    file = root / name
    file.parent.mkdir(parents=True, exist_ok=True)
    data = (
        content if isinstance(content, bytes) else encode(content, "JPEG" if name.endswith("jpg") else "PNG", **options)
    )
    file.write_bytes(data)
    return name


def samples(root: Path) -> list[dict]:
    found = shards.live_shards(root / "data")
    return [row for s in found for row in pq.read_table(s.path).to_pylist()]


def tree(root: Path) -> dict[str, str]:
    """Every file under data/ with its sha256."""
    data = root / "data"
    return {str(f.relative_to(data)): sha256_bytes(f.read_bytes()) for f in sorted(data.rglob("*")) if f.is_file()}


def reasons(report) -> dict[str, str]:
    return {refused.where: refused.reason for refused in report.quarantined}


def annotations(root: Path) -> list[tuple]:
    table = read_annotations(root / "data").to_pylist()
    return [(row["annotator"], row["label"], row["role"]) for row in table]


def splits_of(root: Path) -> dict[str, str]:
    return {row["image"]["path"]: row["split"] for row in samples(root)}


def in_child(root: Path, source: Path) -> None:
    """Ingest `source` in shards of four rows and write the name of the batch into `source`/batch."""
    sys.modules["tasks.ingest.writing"].SHARD_ROWS = 4
    report = take(root, source)
    Path(source, "batch").write_text(report.batch)


def second_source(root: Path) -> Path:
    """New images, and another label for a known one."""
    source = folder(root, 6, start=100)
    image(source, "b/relabelled.png", noise(0))  # class a in the first source
    return source
