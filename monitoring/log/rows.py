"""Answers as rows of the production log: measured and with a thumbnail, as the model's reference is."""

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
from tasks.dataset.decode import Undecodable, preprocess
from tasks.inspection.measure import measure
from tasks.releases.reference import thumbnail


class Answer(NamedTuple):
    """One image and what a model said of it."""

    image: bytes
    prediction: Prediction
    model: Model
    source: str | None
    at: datetime  # of the request, with a time zone
    latency_ms: float | None


def row(answer: Answer, keep_image: bool = True, id: str | None = None) -> dict:
    """A log_schema row. id: sha256 of the image, where the caller knows it already."""
    said, (predictor, version) = answer.prediction, answer.model
    label = said.label
    found = {
        "id": id or sha256_bytes(answer.image),
        "at": answer.at,
        "source": answer.source,
        "image": answer.image if keep_image else None,
        "reason": said.reason,
        "version": version,
        "bundle": predictor.digest,
        "latency_ms": answer.latency_ms,
    }
    if said.reason is not None:
        return found
    spec = predictor.about["preprocess"]
    try:
        measures = measure(answer.image, spec["max_pixels"])
        picture = thumbnail(preprocess(answer.image, spec["resolution"], spec["fit"], spec["max_pixels"]))
    except Undecodable as error:  # answered, so it was readable a moment ago: other bytes than were predicted
        return found | {"reason": error.reason}
    return found | {
        "prediction": list(label) if isinstance(label, tuple) else label,
        "confidence": said.confidence,
        "probabilities": np.asarray(said.probabilities, np.float32),
        "ood": said.ood,
        "needs_review": said.needs_review,
        "features": np.asarray(said.features, np.float32),
        **{field.name: getattr(measures, field.name) for field in MEASURES},
        "thumbnail": picture,
    }


def table(rows: Sequence[dict], task: str) -> pa.Table:
    """Rows of `row` as log_schema; what a row lacks is null."""
    schema = log_schema(task)
    return pa.table([pa.array([found.get(f.name) for found in rows], f.type) for f in schema], schema=schema)
