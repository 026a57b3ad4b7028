"""An answer as JSON."""

import heapq
import json
import math
from typing import Any

from serving.predictor import Prediction
from serving.service.contracts import Asked
from serving.service.jobs import Result

DIGITS = 6  # behind the point: a model's numbers differ by less with the batch that an image came in


def answer_fields(result: Result, asked: Asked, top: int) -> dict[str, Any]:
    """The members of one answer. top: how many of the likeliest classes are listed."""
    prediction, model = result.answered.prediction, result.answered.model
    found: dict[str, Any] = {
        "label": prediction.label,
        "confidence": _number(prediction.confidence),
        "top": likeliest(prediction, model.predictor.classes, top),
        "coarse": prediction.coarse,
        "plausible": prediction.plausible,
        "ood": _number(prediction.ood),
        "is_ood": prediction.is_ood,
        "needs_review": prediction.needs_review,
        "version": model.version,
        "role": result.answered.role,
        "cached": result.cached,
        "id": result.id,
    }
    if model.predictor.provisional:
        found["provisional"] = model.predictor.provisional
    return found | owner_fields(asked)


def owner_fields(asked: Asked) -> dict[str, Any]:
    """What the owner said of the image, back."""
    found = {name: value for name in ("key", "source", "path") if (value := getattr(asked, name)) is not None}
    return found | ({"slices": dict(asked.slices)} if asked.slices else {})


def likeliest(prediction: Prediction, classes: list[str], top: int) -> list[dict[str, Any]]:
    """The `top` classes with the highest calibrated probabilities, highest first."""
    probabilities = prediction.probabilities
    chosen = heapq.nlargest(top, range(len(probabilities)), key=probabilities.__getitem__)
    return [{"label": classes[k], "probability": _number(probabilities[k])} for k in chosen]


def to_json(content: Any) -> bytes:
    """JSON of ASCII, which no reader can take for another encoding."""
    return json.dumps(content, separators=(",", ":"), allow_nan=False).encode()


def _number(value: float | None) -> float | None:
    return round(value, DIGITS) if value is not None and math.isfinite(value) else None
