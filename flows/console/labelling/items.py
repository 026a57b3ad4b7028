"""One image as the page shows it: as plain values, for the template and for the script alike."""

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from flows.labels.queues import Entry
from flows.labels.sitting_images import by_likelihood
from monitoring.pages.render import name
from monitoring.review.asked import Label, label_text

DIGITS = "1234567890"
FEW = 10  # classes that have a key of their own; more are found by typing
WHY = {
    "audit": "drawn at random: its label measures the model",
    "audit of drift": "drawn at random after drift: its label measures the model",
    "random": "drawn at random: its label measures the next model",
    "second look": "second look: says how often people err",
    "annotators disagree": "annotators disagree",
    "duplicates differ": "images that look the same have different labels",
    "suggested by CLIP": "CLIP suggests a label from the class names: nobody has checked it",
    "looks wrong": "the label looks wrong to the newest run",
    "answered before": "you answered this before: another answer replaces it",
}


def item_of(
    entry: Entry, classes: Sequence[str], likely: dict[str, float], multilabel: bool, fixed: bool = False
) -> dict[str, Any]:
    """What is shown of `entry`. likely: class -> probability. fixed: classes keep their order on all images.

    Of an entry that is blind, nothing is shown that the model or another person said; its classes keep their order.
    """
    asked = entry.asked
    if entry.blind:
        likely, fixed = {}, True
    first = [] if entry.blind else [*_names(asked.prediction), *_names(asked.given)]
    listed = list(classes)
    ordered = listed if fixed else by_likelihood(listed, likely, list(dict.fromkeys(first)))
    suggestion = None if entry.blind else asked.prediction
    given = None if entry.blind else asked.given
    return {
        "id": entry.id,
        "queue": entry.queue,
        "image": image_url(entry.id, entry.queue),
        "why": WHY.get(asked.why, asked.why),
        "because": name(entry.because, 300) if entry.because else "",
        "detail": "" if entry.blind else name(asked.detail, 300),
        "about": about(entry),
        "blind": entry.blind,
        "given": given,
        "given_text": None if given is None else label_text(given),
        "suggestion": suggestion,
        "suggestion_text": None if suggestion is None else label_text(suggestion),
        "confidence": None if entry.blind else asked.confidence,
        "classes": [{"name": one, "p": likely.get(one)} for one in ordered],
        "multilabel": multilabel,
    }


def about(entry: Entry) -> str:
    """Where the image is from, on one line."""
    asked = entry.asked
    at = f"{asked.at:%Y-%m-%d %H:%M} UTC" if asked.at else ""
    return " · ".join(name(part, 80) for part in (asked.source, at, asked.key, asked.path) if part)


def image_url(image: str, queue: str) -> str:
    """The address of the image itself."""
    return f"/label/image/{quote(image, safe='')}?queue={queue}"


def groups(entries: Sequence[Entry]) -> dict[str, list[Entry]]:
    """Suggested label, as text, -> the entries it is suggested for, most entries first. Blind ones have none."""
    found: dict[str, list[Entry]] = {}
    for entry in entries:
        if not entry.blind and entry.asked.prediction is not None:
            found.setdefault(label_text(entry.asked.prediction), []).append(entry)
    return dict(sorted(found.items(), key=lambda pair: (-len(pair[1]), pair[0])))


def _names(label: Label) -> list[str]:
    return [label] if isinstance(label, str) else list(label or [])
