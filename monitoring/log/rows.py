"""Turn answers into rows of the production log.

Rows have the same measures and thumbnails as a reference.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from monitoring.log.schema import log_schema
from serving.live import Model
from serving.predictor import Prediction
from tasks.common.files import sha256_bytes
from tasks.common.schemas import MEASURES
from tasks.dataset.decode import PREPROCESS, Undecodable, preprocess
from tasks.inspection.measure import measure
from tasks.releases.reference import thumbnail


class Answer(NamedTuple):
    """One image and what a model answered."""

    image: bytes
    prediction: Prediction
    model: Model
    source: str | None
    at: datetime  # of the request, with a time zone
    latency_ms: float | None
    key: str | None = None  # the owner's: order number, part id
    path: str | None = None  # the owner's
    slices: tuple[tuple[str, str], ...] = ()  # (name, value)
    pixels: np.ndarray | None = None  # (S, S, 3) uint8, what the model saw; None: decode the image again


def log_row(answer: Answer, keep_image: bool = True, digest: str | None = None, lean: bool = False) -> dict:
    """A log_schema row. digest: sha256 of the image, if the caller already knows it.

    lean: only the answer, without the image's measures, thumbnail and features, which take a second decoding.
    """
    prediction, (predictor, version) = answer.prediction, answer.model
    label = prediction.label
    found = {
        "id": digest or sha256_bytes(answer.image),
        "at": answer.at,
        "source": answer.source,
        "key": answer.key,
        "path": answer.path,
        "slices": [{"name": name, "value": value} for name, value in answer.slices],
        "image": answer.image if keep_image and not lean else None,
        "reason": prediction.reason,
        "version": version,
        "bundle": predictor.digest,
        "latency_ms": answer.latency_ms,
    }
    if prediction.reason is not None:
        return found
    answered = {
        "prediction": list(label) if isinstance(label, tuple) else label,
        "confidence": prediction.confidence,
        "probabilities": np.asarray(prediction.probabilities, np.float32),
        "ood": prediction.ood,
        "needs_review": prediction.needs_review,
    }
    if lean:
        return found | answered
    spec = predictor.about["preprocess"]
    try:
        measures = measure(answer.image, spec["max_pixels"], spec.get("bit_depth"))
        seen = answer.pixels
        if seen is None:
            seen = preprocess(answer.image, *(spec.get(key) for key in PREPROCESS))
    except Undecodable as error:  # it was answered, so it was readable: these are not the predicted bytes
        return found | {"reason": error.reason}
    measured = {
        "features": np.asarray(prediction.features, np.float32),
        **{field.name: getattr(measures, field.name) for field in MEASURES},
        "thumbnail": thumbnail(seen),
    }
    return found | answered | measured


def log_table(rows: Sequence[dict], task: str) -> pa.Table:
    """Rows from `log_row` as log_schema; values that a row lacks are null."""
    schema = log_schema(task)
    return pa.table([pa.array([found.get(f.name) for found in rows], f.type) for f in schema], schema=schema)
