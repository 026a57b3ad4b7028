"""Write the review queue as Label Studio tasks, and read labels from Label Studio's exports.

A task is {"data": {"image", "evergreen_id", ...}, "predictions": [...]}, with the prediction as a pre-annotation.
Exports are "JSON" (tasks with annotations) or "JSON-MIN" (flat), as Label Studio documents them. Images are in the file
as data URIs, so no server is needed.
"""

import base64
import io
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple
from xml.sax.saxutils import quoteattr

from PIL import Image

from monitoring.review.asked import Asked, ClassGuide, choices
from tasks.dataset.decode import Undecodable, decode

EMBEDDED = 1 << 20  # bytes; a larger image, or one that browsers cannot show, becomes a smaller JPEG
SIDE = 1600  # longest edge of that JPEG in pixels
CONTROL = "label"  # the name of the control whose choice is the label; other controls are other questions
EXCLUDE = "(exclude)"  # the choice that says: use this image for nothing
NONE = "(none)"  # multi-label: no class applies
KINDS = {"JPEG": "jpeg", "PNG": "png", "WEBP": "webp", "GIF": "gif"}  # formats that browsers show


class Answer(NamedTuple):
    """One annotation: `values` has the keys names, label (None: skipped), annotator and labelled_at."""

    where: str  # "task 3 annotation 7"
    values: dict[str, Any]
    problem: str = ""  # why it cannot be used


def task(entry: Asked, image: bytes | None, max_pixels: int) -> dict[str, Any]:
    """One task. image: None if it is no longer stored."""
    said = entry.prediction if entry.prediction is not None else []
    result = {"choices": [said] if isinstance(said, str) else list(said)}
    data = {
        "image": data_uri(image, max_pixels),
        "evergreen_id": entry.id,
        "source": entry.source,
        "at": entry.at.isoformat() if entry.at else None,
        "why": entry.why,
        "key": entry.key,
        "path": entry.path,
    }
    more = {"given": entry.given, "detail": entry.detail}
    return {
        "data": data | {name: value for name, value in more.items() if value not in (None, "")},
        "predictions": [
            {
                "model_version": entry.version,
                "score": entry.confidence,
                "result": [{"from_name": CONTROL, "to_name": "image", "type": "choices", "value": result}],
            }
        ],
    }


def config(classes: Sequence[str], multilabel: bool, guides: Sequence[ClassGuide] = ()) -> str:
    """The labelling interface for these tasks (Settings > Labeling Interface > Code); a class's meaning is its hint."""
    hints = {guide.name: f" hint={quoteattr(guide.text)}" for guide in guides if guide.text}
    offered = [name for name, _ in choices(classes, multilabel, EXCLUDE, NONE)]
    lines = "".join(f"\n    <Choice value={quoteattr(name)}{hints.get(name, '')}/>" for name in offered)
    kind = "multiple" if multilabel else "single"
    return (
        f'<View>\n  <Image name="image" value="$image" zoom="true"/>\n'
        f'  <Choices name="{CONTROL}" toName="image" choice="{kind}">{lines}\n  </Choices>\n</View>\n'
    )


def answers(content: Any) -> Iterator[Answer]:
    """What people answered in a parsed export, one per annotation; a task without annotations gives one without label.

    Only the control CONTROL counts. Predictions and drafts are not answers. Raises ValueError if `content` is not an
    export.
    """
    if not isinstance(content, list) or not all(isinstance(found, dict) for found in content):
        raise ValueError("expected Label Studio's JSON or JSON-MIN export: a list of tasks")
    for number, found in enumerate(content, 1):
        where = f"task {found.get('id', number)}"
        if "data" not in found:  # JSON-MIN: one flat record per annotation
            values = {"names": _names(found), "annotator": annotator(found.get("annotator"))}
            values |= {"label": chosen(found.get(CONTROL)), "labelled_at": found.get("updated_at")}
            yield Answer(where, values)
            continue
        names = _names(found["data"]) if isinstance(found["data"], dict) else []
        for count, given in enumerate(found.get("annotations") or [{}], 1):  # no annotations: not labelled yet
            values = {"names": names, "annotator": annotator(given.get("completed_by"))}
            values["labelled_at"] = given.get("updated_at") or given.get("created_at")
            label, problem = (None, "") if given.get("was_cancelled") else _answer(given.get("result") or [])
            yield Answer(f"{where} annotation {given.get('id', count)}", values | {"label": label}, problem)


def chosen(value: Any) -> Any:
    """The label in an exported value: a name, a list of names or {"choices": [...]}; None for none."""
    if isinstance(value, dict):
        return value["choices"]
    return value


def _answer(results: list[dict[str, Any]]) -> tuple[Any, str]:
    """(the chosen labels of CONTROL, why they cannot be used)."""
    ours = [result for result in results if result.get("from_name") == CONTROL]
    for result in ours:
        if result.get("type") == "choices":
            return result["value"]["choices"], ""
    if ours:
        return None, f"the control {CONTROL!r} has the type {ours[0].get('type')!r}, expected choices"
    others = sorted({str(result["from_name"]) for result in results if result.get("type") == "choices"})
    if others:
        return None, f"no answer of a control {CONTROL!r}, only of {', '.join(map(repr, others))[:100]}"
    return None, ""


def _names(data: dict[str, Any]) -> list[Any]:
    """What may name the sample, the best first."""
    found = [data.get(name) for name in ("evergreen_id", "key", "path", "image")]
    return [name for name in found if isinstance(name, str | int) and not str(name).startswith("data:")]


def annotator(by: Any) -> str | None:
    """The name of who annotated: an address where the export has one, else "annotator" and a number."""
    by = (by.get("email") or by.get("id")) if isinstance(by, dict) else by
    return None if by is None else f"annotator {by}" if isinstance(by, int) else str(by)


def data_uri(image: bytes | None, max_pixels: int) -> str:
    """`image` as a data URI that browsers show; a grey square if there is none."""
    found = shown(image, max_pixels)
    return f"data:image/{found[0]};base64,{base64.b64encode(found[1]).decode()}"


def shown(image: bytes | None, max_pixels: int) -> tuple[str, bytes]:
    """(kind, content) of `image` as browsers show it ("png", ...); a grey square if there is none."""
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
