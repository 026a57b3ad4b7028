"""What people are shown of one sample they are asked about: of production or of the data set."""

from collections.abc import Sequence

from pydantic import AwareDatetime

from monitoring.review.queue import Queued
from tasks.common.checks import Frozen

Label = str | list[str] | None


class Asked(Frozen):
    """A sample that waits for a person's word."""

    id: str
    why: str  # why it is asked for
    prediction: Label = None  # of a model
    confidence: float | None = None
    version: str | None = None  # of that model
    given: Label = None  # its label now
    detail: str = ""  # what else is known, e.g. who gave which label
    source: str | None = None
    key: str | None = None  # the owner's
    path: str | None = None
    at: AwareDatetime | None = None


class ClassGuide(Frozen):
    """What a class means, and images that show it, as data URIs: shown where people label."""

    name: str
    text: str
    images: tuple[str, ...] = ()


def of_queued(entry: Queued) -> Asked:
    """What is shown of a production sample in the review queue."""
    shared = {
        name: getattr(entry, name)
        for name in ("id", "why", "prediction", "confidence", "version", "source", "key", "path", "at")
    }
    return Asked(**shared)


def label_text(label: Label, none: str = "none") -> str:
    """A label for the eye."""
    return label if isinstance(label, str) else ", ".join(label or [none])


def choices(classes: Sequence[str], multilabel: bool, exclude: str, nothing: str) -> list[tuple[str, str]]:
    """(value, text) of everything a person may choose."""
    more = [(nothing, "none of the classes")] if multilabel else []
    return [*((name, name) for name in classes), *more, (exclude, "exclude: use this image for nothing")]
