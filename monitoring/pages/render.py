"""Render the pages' templates, with their style, security policy and filters.

Names come from outside: Jinja escapes them, and `name` strips control and direction characters.
"""

import base64
import functools
import hashlib
import re
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from monitoring.pages import plots
from monitoring.plain_names import plain_name
from tasks.common.text import one_line

WINDOW_ID = re.compile(r"[0-9]{8}T[0-9]{6}Z-[0-9]{8}T[0-9]{6}Z")
LETTERS = 80  # of a name
DETAIL = 300  # of a sentence about one measure
ACCURACIES = {  # finding -> text of its tile
    "accuracy.estimated": "accuracy, estimated without labels",
    "accuracy.reference": "accuracy on the reference",
    "accuracy.true": "accuracy on late labels",
}
OUTCOMES = {
    "none": ("All quiet", "Nothing to do. The next window is measured as scheduled."),
    "watch": ("Watch", "Nothing was started. If the next windows drift too, Evergreen asks for labels or retrains."),
    "label": ("Labels needed", "The most informative images wait in the review queue. Retraining starts when enough "
              "of them are labelled."),
    "retrain": ("Retrain", "Retraining was requested. The new model goes live only if the gate promotes it."),
}  # fmt: skip


def check_window_id(window_id: str) -> str:
    """`window_id`, which is used in file names and addresses. Raises ValueError if it is malformed."""
    if not WINDOW_ID.fullmatch(window_id):
        raise ValueError(f"a window id looks like 20261121T120000Z-20261121T121500Z, found {window_id[:80]!r}")
    return window_id


def render(template: str, **values: Any) -> str:
    """The page of `template`, with its style and a policy that allows this style and nothing else."""
    return _environment().get_template(template).render(values, style=_style(), policy=policy())


def render_part(template: str, **values: Any) -> Markup:
    """A part of a page, without the page around it."""
    return Markup(_environment().get_template(template).render(values))


@functools.cache
def policy() -> str:
    """The pages' content security policy.

    It allows this one style, inline images, and forms and frames of the same server.
    """
    digest = base64.b64encode(hashlib.sha256(_style().encode()).digest()).decode()
    return (
        f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; form-action 'self'; frame-src 'self'; "
        "base-uri 'none'"
    )


def name(text: object, letters: int = LETTERS) -> str:
    """Text from outside on one line, short, without characters that hide or reverse text."""
    return one_line(str(text), letters)


def gist(sentence: str, most: int = 240) -> str:
    """A long sentence on one line without its middle: its end says what was decided."""
    words = one_line(sentence, len(sentence)).split(" ")
    if len(" ".join(words)) <= most:
        return " ".join(words)
    first, last = [], []
    while words and len(" ".join(first)) < most // 2 - 10:
        first.append(words.pop(0))
    while words and len(" ".join(last)) < most // 2 - 10:
        last.insert(0, words.pop())
    return f"{name(' '.join(first), most)} … {name(' '.join(last), most)}"


@functools.cache
def _style() -> str:
    return (Path(__file__).parent / "templates/style.css").read_text(encoding="utf-8")


@functools.cache
def _environment():
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals |= {"DETAIL": DETAIL, "accuracies": ACCURACIES}
    made.filters |= {
        "figure": plots.figure,
        "gist": gist,
        "name": name,
        "percent": percent,
        "plain": plain_name,
        "when": when,
        "short": _short,
    }
    return made


def percent(share: float | None) -> str:
    """A share as "87 %", small ones with a digit more."""
    if share is None or not np.isfinite(share):
        return "–"
    return f"{100 * share:.1f} %" if 0 < share < 0.0995 else f"{100 * share:.0f} %"


def when(window_id: str) -> str:
    """ "21 Nov 2026, 12:00 – 12:15" for an id; the end's day if it is another, seconds if the minutes are equal."""
    start, end = (datetime.strptime(part, "%Y%m%dT%H%M%SZ") for part in check_window_id(window_id).split("-"))
    day = "" if start.date() == end.date() else f"{end.day} {end:%b} "
    if not day and f"{start:%H:%M}" == f"{end:%H:%M}":
        return f"{start.day} {start:%b %Y, %H:%M:%S} – {end:%H:%M:%S}"
    return f"{start.day} {start:%b %Y, %H:%M} – {day}{end:%H:%M}"


def _short(value: float | None) -> str:
    """Two digits: they fit under a thumbnail."""
    return "–" if value is None or not np.isfinite(value) else f"{value:.2g}" if abs(value) < 100 else f"{value:.0f}"
