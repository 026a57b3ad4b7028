"""Windows and a reference for the report tests: real images, columns as the log and a bundle hold them.

What a model would have answered is drawn at random; nothing here depends on how drift is measured.
"""

import functools
import hashlib
import io
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from monitoring.contracts import DriftDecision, Finding, Measures, Window
from monitoring.drift.reference import answered
from monitoring.log.schema import log_schema
from tasks.common.checks import Check
from tasks.releases import reference
from tests.support.checkout import ROOT

FASHION = ROOT / "datasets/fashion"
CLASSES = ["Ankle boot", "Bag", "Coat", "Sandal", "Trouser"]
D = 24  # feature dimensions
FIRST = datetime(2026, 11, 21, 8, tzinfo=UTC)
OUTCOMES = ("none", "none", "watch", "none", "none", "watch", "label", "retrain")


def times(number: int) -> tuple[datetime, datetime, str]:
    """Start, end and id of the window `number`: a quarter of an hour each."""
    start = FIRST + timedelta(minutes=15 * number)
    end = start + timedelta(minutes=15)
    return start, end, f"{start:%Y%m%dT%H%M%SZ}-{end:%Y%m%dT%H%M%SZ}"


@functools.cache
def _images(name: str, rows: int) -> tuple[list[bytes], list[bytes], np.ndarray]:
    """Encoded images, their thumbnails, and their mean grey."""
    encoded = [image["bytes"] for image in pq.read_table(FASHION / name, columns=["image"])["image"][:rows].to_pylist()]
    pixels = [np.asarray(Image.open(io.BytesIO(content)).convert("RGB")) for content in encoded]
    return encoded, [reference.thumbnail(image) for image in pixels], np.array([image.mean() for image in pixels])


def _measured(grey: np.ndarray, random: np.random.Generator) -> dict:
    count = len(grey)
    return {
        "format": ["PNG"] * count, "mode": ["L"] * count, "width": [28] * count, "height": [28] * count,
        "exif_orientation": [1] * count, "brightness": grey, "contrast": random.normal(60, 8, count),
        "sharpness": random.gamma(4, 100, count), "entropy": random.normal(5, 0.4, count),
        "phash": random.integers(0, 2**60, count).astype(np.uint64),
    }  # fmt: skip


def _table(columns: dict, schema: pa.Schema) -> pa.Table:
    return pa.table({field.name: pa.array(columns[field.name], field.type) for field in schema}, schema=schema)


def reference_table(rows: int = 120, classes: list[str] = CLASSES, task: str = "multiclass") -> pa.Table:
    random = np.random.default_rng(1)
    encoded, thumbnails, grey = _images("base.parquet", rows)
    probabilities = random.dirichlet(np.full(len(classes), 0.2), rows)
    labels = [classes[k] for k in probabilities.argmax(axis=1)]
    columns = {
        "id": [hashlib.sha256(content).hexdigest() for content in encoded],
        "split": ["test"] * rows,
        "label": labels if task == "multiclass" else [[label] for label in labels],
        "features": random.normal(0, 1, (rows, D)).tolist(),
        "probabilities": probabilities.tolist(),
        "ood": random.gamma(2, 1, rows),
        "thumbnail": thumbnails,
    }
    table = _table(columns | _measured(grey, random), reference.schema(task))
    return answered(table, {"classes": classes, "task": task, "thresholds": dict.fromkeys(classes, 0.5)})


def window_table(
    number: int = 0, rows: int = 100, classes: list[str] = CLASSES, task: str = "multiclass", source: str = "site-07"
) -> pa.Table:
    random = np.random.default_rng(number)
    encoded, thumbnails, grey = _images("production-2.parquet", rows)
    probabilities = random.dirichlet(np.full(len(classes), 0.4), rows)
    labels = [classes[k] for k in probabilities.argmax(axis=1)]
    columns = {
        "id": [hashlib.sha256(content).hexdigest() for content in encoded],
        "at": [times(number)[0]] * rows,
        "source": [source] * rows,
        "key": [None] * rows,
        "path": [None] * rows,
        "slices": [None] * rows,
        "image": encoded,
        "reason": [None] * rows,
        "version": ["v0.1.0"] * rows,
        "bundle": ["ab" * 32] * rows,
        "latency_ms": random.gamma(3, 2, rows),
        "prediction": labels if task == "multiclass" else [[label] for label in labels],
        "confidence": probabilities.max(axis=1),
        "probabilities": probabilities.tolist(),
        "ood": random.gamma(3, 1.5, rows),
        "needs_review": [False] * rows,
        "features": random.normal(0.4, 1, (rows, D)).tolist(),
        "thumbnail": thumbnails,
    }
    return _table(columns | _measured(grey, random), log_schema(task))


def measures(number: int, window: pa.Table, reference_: pa.Table, classes: list[str] = CLASSES) -> Measures:
    start, end, name = times(number)
    bad = OUTCOMES[number % len(OUTCOMES)] != "none"
    random = np.random.default_rng(number)
    found = [
        Finding(
            name=measure,
            status="drifted" if (drifted := bad and share > 0.5) else "ok",
            value=(value := 0.1 * (random.uniform(1.2, 3) if drifted else random.uniform(0.3, 0.9))),
            threshold=0.1,
            p_value=0.0004 if drifted else 0.4,
            detail=f"Kolmogorov-Smirnov distance {value:.2f}",
        )
        for measure, share in [
            ("image.brightness", 0.9), ("image.contrast", 0.3), ("image.sharpness", 0.8), ("image.entropy", 0.2),
            ("embedding", 0.9), ("confidence", 0.8), ("ood", 0.7), ("prediction.mix", 0.6), ("missing.features", 0.1),
        ]
    ]  # fmt: skip
    accuracy = 0.58 if bad else 0.83
    found += [
        Finding(name="accuracy.estimated", status="info", value=accuracy, low=accuracy - 0.05, high=accuracy + 0.05),
        Finding(name="label.shift", status="info", value=0.31),
    ]
    mix = {label: 1 / len(classes) for label in classes}
    weights = np.arange(1, len(classes) + 1) / np.arange(1, len(classes) + 1).sum()
    return Measures(
        window=Window(
            id=name, start=start, end=end, version="v0.1.0", bundle="ab" * 32, rows=window.num_rows,
            used=window.num_rows,
        ),
        findings=found,
        mix=mix,
        reference_mix=dict(zip(classes, weights.tolist(), strict=True)),
        moved=window["id"][:12].to_pylist(),
        typical=reference_["id"][:12].to_pylist(),
    )  # fmt: skip


SENTENCES = {
    "none": "Production looks like the model's reference: no measure is beyond its threshold.",
    "watch": "Brightness and embeddings have moved in 1 of the last 3 windows: wait for the next one.",
    "label": "Images are darker and less sharp than anything the model was tested on, in 2 of the last 3 windows; "
    "there are no labels of them yet, so 100 images wait in the review queue.",
    "retrain": "Images are darker and less sharp than in the model's reference in 3 of the last 3 windows, and 180 new "
    "labels of them are there: retrain.",
}


def decision(number: int) -> DriftDecision:
    outcome = OUTCOMES[number % len(OUTCOMES)]
    checks = [
        Check(name="rows", status="pass", value=100, bound=30, detail="images in the window"),
        Check(
            name="persistence",
            status="fail" if outcome == "watch" else "pass",
            value=2,
            bound=2,
            detail="of the last 3 windows have drifted",
        ),
    ]
    return DriftDecision(outcome=outcome, sentence=SENTENCES[outcome], checks=checks, window=times(number)[2])


def history(count: int) -> list[tuple[Measures, DriftDecision]]:
    """Windows 0 .. count - 1 with what was decided."""
    window, reference_ = window_table(), reference_table()
    return [(measures(number, window, reference_), decision(number)) for number in range(count)]
