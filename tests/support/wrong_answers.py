"""Answers of production that their labels contradict, with real pictures, in the log of a project of fashion images."""

import io
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from monitoring.log.production_log import open_log
from monitoring.log.schema import late_labels_schema, log_schema
from tasks.common.files import sha256_bytes
from tasks.common.params import load_params
from tasks.inspection.measure import measure
from tests.support.checkout import ROOT
from tests.support.photos import encode

AT = datetime(2026, 11, 18, 8, tzinfo=UTC)
SAID = ["Bag", "Bag", "Bag", "Trouser", "Bag", "Bag"]
TRUTH = ["Trouser", "Trouser", "Trouser", "Trouser", "Ankle boot", None]  # the fourth answer is right


def add(root: Path) -> list[str]:
    """Six answers of v0.1.0, the surest first, and their labels; returns the ids. The third repeats the second."""
    log = open_log(root, load_params(root / "params.yaml"))
    pictures = pq.read_table(ROOT / "datasets/fashion/production-3.parquet", columns=["image"]).slice(0, 6)["image"]
    files = [one["bytes"] for one in pictures.to_pylist()]
    files[2] = encode(Image.open(io.BytesIO(files[1])), "JPEG", quality=95)
    ids = [sha256_bytes(content) for content in files]
    near = {"phash": [measure(content, 1 << 20).phash for content in files]}
    about = {"id": ids, "image": files, "prediction": SAID, "confidence": [0.9, 0.8, 0.7, 0.6, 0.5, 0.4], **near}
    about |= {"at": [AT + timedelta(minutes=n) for n in range(6)], "source": ["cam 1"] * 5 + ["cam 2"]}
    about |= {"version": ["v0.1.0"] * 6, "key": [f"order {n}" for n in range(6)], "slices": [[]] * 6}
    log.append(_table(log_schema("multiclass"), about))
    labels = {"id": ids, "label": TRUTH, "at": [AT] * 6, "annotator": ["eve"] * 6, "role": ["annotator"] * 6}
    log.add_labels(_table(late_labels_schema("multiclass"), labels | {"picked": ["feedback"] * 6}))
    return ids


def _table(schema: pa.Schema, columns: dict[str, list]) -> pa.Table:
    return pa.table([pa.array(columns.get(f.name, [None] * 6), f.type) for f in schema], schema=schema)
