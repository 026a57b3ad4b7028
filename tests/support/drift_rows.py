"""Rows of a made-up model whose true distributions are known, as the log and a reference hold them.

K = 4 classes in D = 24 feature dimensions; a window can be made with any change, and hundreds of them in a second.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa

from monitoring.contracts import Finding, Measures, Window
from monitoring.drift.reference import Reference, from_table
from monitoring.log.schema import log_schema
from tasks.common.files import content_key
from tasks.common.params import DriftParams
from tasks.releases import reference

CLASSES = ["Bag", "Coat", "Shirt", "<b>Boot</b>"]
D = 24
ABOUT = {"classes": CLASSES, "task": "multiclass", "thresholds": dict.fromkeys(CLASSES, 0.5), "ood": {"threshold": 3.9}}
START = datetime(2026, 11, 21, tzinfo=UTC)
WINDOW = Window(
    id="20261121T000000Z-20261121T001500Z", start=START, end=START + timedelta(minutes=15), version="v0.1.0",
    bundle="ab" * 32, rows=200, used=200,
)  # fmt: skip
PARAMS = DriftParams(resamples=400)
CENTRES = np.random.default_rng(1).normal(0, 1, (len(CLASSES), D))


def columns(
    rows: int, rng: np.random.Generator, priors: tuple = (0.4, 0.3, 0.2, 0.1), moved: float = 0.0, dark: float = 1.0
) -> dict:
    """moved: of the features, in standard deviations of one of them; dark: factor on brightness."""
    truth = rng.choice(len(CLASSES), rows, p=priors)
    features = CENTRES[truth] + rng.normal(0, 1, (rows, D)) + moved * CENTRES[0]
    logits = features @ CENTRES.T / 4 - (CENTRES**2).sum(axis=1) / 8
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return {
        "id": [f"{a:016x}{b:048x}" for a, b in rng.integers(0, 2**62, (rows, 2))],
        "at": [START] * rows,
        "label": [CLASSES[k] for k in truth],
        "prediction": [CLASSES[k] for k in probabilities.argmax(axis=1)],
        "confidence": probabilities.max(axis=1),
        "probabilities": list(probabilities),
        "features": list(features),
        "ood": rng.gamma(3, 0.5, rows) + np.abs(moved),
        "format": ["JPEG"] * rows,
        "mode": ["RGB"] * rows,
        "width": [640] * rows,
        "height": rng.choice([480, 640], rows),
        "exif_orientation": [1] * rows,
        "brightness": rng.normal(130, 20, rows) * dark,
        "contrast": rng.normal(50, 8, rows),
        "sharpness": rng.gamma(3, 100, rows),
        "entropy": rng.normal(6, 0.5, rows),
        "phash": rng.integers(0, 2**60, rows).astype(np.uint64),
    }


def table(columns: dict, schema: pa.Schema) -> pa.Table:
    rows = len(columns["id"])
    arrays = [pa.array(columns[f.name], f.type) if f.name in columns else pa.nulls(rows, f.type) for f in schema]
    return pa.table(arrays, schema=schema)


def window(rows: int = 200, seed: int = 0, change: Callable[[dict], None] | None = None, **how) -> pa.Table:
    """log_schema; change: edits the columns before they become a table."""
    made = columns(rows, np.random.default_rng([2, seed]), **how)
    if change is not None:
        change(made)
    return table(made, log_schema("multiclass"))


def a_reference(cache: Path, rows: int = 300, seed: int = 0) -> Reference:
    made = table(columns(rows, np.random.default_rng([3, seed])), reference.schema("multiclass"))
    return from_table(made, ABOUT, content_key("drift rows", rows, seed), cache)


def finding(measures: Measures, name: str) -> Finding:
    """The one finding of that name."""
    (found,) = (found for found in measures.findings if found.name == name)
    return found


def drifted_names(measures: Measures) -> set[str]:
    """Names of the findings that are drift."""
    return {found.name for found in measures.drifted()}
