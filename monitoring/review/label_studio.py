"""Write the review queue as Label Studio tasks, and read labels from Label Studio's exports.

A task is {"data": {"image", "evergreen_id", ...}, "predictions": [...]}, with the prediction as a pre-annotation.
Exports are "JSON" (tasks with annotations) or "JSON-MIN" (flat), as Label Studio documents them. Images are in the file
as data URIs, so no server is needed.
"""

import base64
import io
from collections.abc import Iterator, Sequence
from typing import Any
from xml.sax.saxutils import quoteattr

from PIL import Image

from monitoring.review.queue import Queued
from tasks.dataset.decode import Undecodable, decode

EMBEDDED = 1 << 20  # bytes; a larger image, or one that browsers cannot show, becomes a smaller JPEG
SIDE = 1024  # longest edge of that JPEG in pixels
KINDS = {"JPEG": "jpeg", "PNG": "png", "WEBP": "webp", "GIF": "gif"}  # formats that browsers show


def task(entry: Queued, image: bytes | None, max_pixels: int) -> dict[str, Any]:
    """One task. image: None if the log no longer has it."""
    chosen = [entry.prediction] if isinstance(entry.prediction, str) else list(entry.prediction or [])
    return {
        "data": {
            "image": data_uri(image, max_pixels),
            "evergreen_id": entry.id,
            "source": entry.source,
            "at": entry.at.isoformat(),
            "why": entry.why,
            "key": entry.key,
            "path": entry.path,
        },
        "predictions": [
            {
                "model_version": entry.version,
                "score": entry.confidence,
                "result": [{"from_name": "label", "to_name": "image", "type": "choices", "value": {"choices": chosen}}],
            }
        ],
    }


def config(classes: Sequence[str], multilabel: bool) -> str:
    """The labelling interface for these tasks (Settings > Labeling Interface > Code)."""
    choices = "".join(f"\n    <Choice value={quoteattr(name)}/>" for name in classes)
    kind = "multiple" if multilabel else "single"
    return (
        f'<View>\n  <Image name="image" value="$image"/>\n  <Choices name="label" toName="image" choice="{kind}">'
        f"{choices}\n  </Choices>\n</View>\n"
    )


def labels(content: Any) -> Iterator[dict[str, Any]]:
    """Labels of a parsed export: {"id", "label" (None: skipped), "annotator", "labelled_at"}.

    Raises ValueError if `content` is not an export.
    """
    if not isinstance(content, list) or not all(isinstance(found, dict) for found in content):
        raise ValueError("expected Label Studio's JSON or JSON-MIN export: a list of tasks")
    for found in content:
        if "data" not in found:
            value = found.get("label")
            value = value.get("choices") if isinstance(value, dict) else value
            yield _label(found.get("evergreen_id"), value, found.get("annotator"), found.get("updated_at"))
            continue
        name = found["data"].get("evergreen_id") if isinstance(found["data"], dict) else None
        for given in found.get("annotations") or [{}]:  # no annotations: not labelled yet
            value = next(
                (result["value"]["choices"] for result in given.get("result") or [] if result.get("type") == "choices"),
                None,
            )
            by = given.get("completed_by")
            by = (by.get("email") or by.get("id")) if isinstance(by, dict) else by
            at = given.get("updated_at") or given.get("created_at")
            yield _label(name, None if given.get("was_cancelled") else value, by, at)


def _label(name: Any, value: Any, annotator: Any, at: Any) -> dict[str, Any]:
    by = None if annotator is None else f"annotator {annotator}" if isinstance(annotator, int) else str(annotator)
    return {"id": name, "label": value, "annotator": by, "labelled_at": at}


def data_uri(image: bytes | None, max_pixels: int) -> str:
    """`image` as a data URI that browsers show; a grey square if there is none."""
    found = _shown(image, max_pixels)
    return f"data:image/{found[0]};base64,{base64.b64encode(found[1]).decode()}"


def _shown(image: bytes | None, max_pixels: int) -> tuple[str, bytes]:
    picture = Image.new("L", (64, 64), 128)
    if image:
        try:
            kind = KINDS.get(Image.open(io.BytesIO(image)).format or "")
            if kind and len(image) <= EMBEDDED:
                return kind, image
            picture = decode(image, max_pixels)
            picture.thumbnail((SIDE, SIDE))
        except (Undecodable, OSError, ValueError):
            pass  # the queue only contains readable images, but a log edited by hand may contain others
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    return "jpeg", buffer.getvalue()
