"""A project of small images with the files that `embed` and `clean` read, without the stages that make them."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from tasks.common.files import sha256_bytes, write_json
from tasks.common.params import Params, load_params
from tasks.common.schemas import accepted_schema, sample_schema
from tasks.dataset import shards
from tasks.stages.validate.people import CONFIRMED
from tests.support.checkout import ROOT


def png(pixels: np.ndarray) -> bytes:
    """uint8 pixels as PNG bytes."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def noise_images(count: int, seed: int, side: int = 16) -> list[bytes]:
    rng = np.random.default_rng(seed)
    return [png(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)) for _ in range(count)]


def add_shard(
    root: Path,
    images: Sequence[bytes],
    labels: Sequence,
    splits: Sequence[str],
    groups: Sequence[str | None] | None = None,
    task: str = "multiclass",
) -> str:
    """One more shard under data/ and its rows in accepted.parquet and samples.parquet; returns its name."""
    count = len(images)
    columns = {
        "id": [sha256_bytes(data) for data in images],
        "image": [{"bytes": data, "path": f"=of {sha256_bytes(data)[:8]}.png"} for data in images],
        "label": list(labels),
        "source": [None] * count,
        "group": list(groups or [None] * count),
        "taken_at": [None] * count,
        "origin": ["import"] * count,
        "batch": ["b-000000000001"] * count,
        "slice": [[]] * count,
        "split": list(splits),
        "picked": ["representative"] * count,
    }
    columns = dict.fromkeys(sample_schema(task).names, [None] * count) | columns
    rows = pa.table(columns, schema=sample_schema(task))
    (root / "data").mkdir(exist_ok=True)
    name = shards.write_shard(root / "data", rows, task)
    columns |= {"shard": [name] * count, "row": list(range(count))}
    schema = accepted_schema(task)
    table = pa.table({field: columns[field] for field in schema.names}, schema=schema)
    accepted = root / "artifacts" / "validate" / "accepted.parquet"
    accepted.parent.mkdir(parents=True, exist_ok=True)
    if accepted.is_file():
        table = pa.concat_tables([pq.read_table(accepted), table])
        accepted.unlink()
    pq.write_table(table, accepted)
    pq.write_table(CONFIRMED.empty_table(), accepted.with_name("confirmed.parquet"))
    write_json(accepted.with_name("batches.json"), {"b-000000000001": 1})
    inspected = root / "artifacts" / "inspect" / "samples.parquet"
    inspected.parent.mkdir(parents=True, exist_ok=True)
    status = pa.repeat("ok", len(table))
    columns = {name: table[name] for name in ("id", "shard", "row")} | {"cluster": table["id"], "status": status}
    pq.write_table(pa.table(columns), inspected)
    named = {
        name for label in table["label"].to_pylist() for name in ([label] if isinstance(label, str) else label or [])
    }
    write_json(root / "artifacts" / "validate" / "classes.json", sorted(named))
    return name


def params(root: Path, **replacements: str) -> Params:
    """The shipped params.yaml written to `root`, with lines changed: resolution="16" for "resolution: 64"."""
    text = (ROOT / "params.yaml").read_text()
    for key, value in replacements.items():
        lines = [f"  {key}: {value}" if line.strip().startswith(f"{key}:") else line for line in text.splitlines()]
        text = "\n".join(lines) + "\n"
    (root / "params.yaml").write_text(text)
    (root / "dvc.yaml").write_text("stages: {}\n")
    return load_params(root / "params.yaml")
