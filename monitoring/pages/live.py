"""Live accuracy as the pages show it: a file of weeks with the reports, and the words for them."""

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from markupsafe import Markup
from pydantic import AwareDatetime

from monitoring.contracts import Window
from monitoring.live.estimate import LiveAccuracy, sentence
from monitoring.live.periods import NO_SOURCE, Period, Share, week_of
from monitoring.pages import plots
from monitoring.pages.render import name, render_part
from tasks.common.checks import Frozen
from tasks.common.errors import refuse_newer
from tasks.common.files import write_json
from tasks.common.paths import state_dir
from tasks.common.private import make_folder
from tasks.common.rebuildable import read_rebuildable

SCHEMA_VERSION = 1
FILE = "live_accuracy.json"
MATRIX = 12  # classes of a confusion matrix; of more, only mistakes are listed
MISTAKES = 20  # listed
WEEK_PART = re.compile("(<!-- week ([0-9]{4}-[0-9]{2}-[0-9]{2}-[0-9a-f]+) -->).*?(<!-- end of week -->)", re.DOTALL)
SHOWN = 8  # weeks in full
FEW = 10  # labels: a week with fewer does not speak for the model if an earlier one has more


class Live(Frozen):
    """The weeks with labels, and what they were measured from."""

    labels: list[str] = []  # files of labels that were taken into account
    measured: dict[str, AwareDatetime] = {}  # week and model -> when it was last measured
    periods: list[Period] = []  # oldest first
    live: str = ""  # bundle of the model that was live at the last measurement; "": not known
    classes: str = ""  # of which changes of the classes: their names are of then


def reports_dir(root: Path) -> Path:
    """The folder of the project's drift reports."""
    return state_dir(root) / "reports"


def read(folder: Path) -> Live:
    """The weeks kept in `folder`; empty if the file is missing or damaged, because it can be computed again."""
    path = folder / FILE

    def accept(found: dict) -> Live:
        refuse_newer(found.pop("schema"), SCHEMA_VERSION, str(path))
        return Live.model_validate(found)

    return read_rebuildable(path, accept, "the weeks are measured again") or Live()


def write(folder: Path, live: Live) -> None:
    """Keep the weeks in `folder`."""
    make_folder(folder)
    write_json(folder / FILE, {"schema": SCHEMA_VERSION} | live.model_dump(mode="json"))


def in_order(periods: Iterable[Period]) -> list[Period]:
    """Oldest week first; within a week, oldest version first."""
    return sorted(periods, key=lambda one: (one.start, [int(part) for part in re.findall("[0-9]+", one.version)]))


def key(start: datetime, version: str, bundle: str) -> str:
    """Names a week of a model."""
    return f"{start:%Y-%m-%d} {version} {bundle}"


def newest(periods: list[Period], bundle: str = "") -> Period | None:
    """The week that speaks for the live model `bundle`, else for the newest one: its newest with labels enough.

    A canary is newer than the live model, and speaks for itself only.
    """
    if not periods:
        return None
    own = [one for one in periods if one.bundle == bundle]
    same = own or [one for one in periods if one.bundle == periods[-1].bundle]
    enough = [one for one in same if one.accuracy is not None and one.accuracy.used >= FEW]
    known = [one for one in same if one.accuracy is not None]
    return (enough or known or same)[-1]


def headline(period: Period) -> str:
    """ "67.1 to 71.3 % right; 64 more labels make it +-3 points"; without random labels, what the others say."""
    if period.accuracy is not None:
        return sentence(period.accuracy)
    return (
        f"{period.right} of {period.labels} labelled answers right, none of them asked for at random: this says "
        "nothing about the others"
    )


def week_of_window(periods: list[Period], window: Window) -> Period | None:
    """The week of the window's model in which the window began."""
    start = week_of(window.start.astimezone(UTC))
    return next((one for one in periods if one.start == start and one.bundle == window.bundle), None)


def with_week(page: str, periods: list[Period]) -> str:
    """A window's page with its week as it is known now."""

    def replaced(found: re.Match) -> str:
        period = next((one for one in periods if one.id == found[2]), None)
        return f"{found[1]}{week(period)}{found[3]}" if period else found[0]

    return WEEK_PART.sub(replaced, page, count=1)


def week(period: Period | None) -> Markup:
    """A week as part of a window's page; empty if it has no labels."""
    return render_part("live_week.html", week=shown(period) if period else None)


def weeks(periods: list[Period], bundle: str = "") -> list[dict]:
    """The last weeks for the page of all reports, newest first; that of the live model `bundle` leads."""
    first = newest(periods, bundle)
    last = [one for one in periods[-SHOWN:][::-1] if one is not first]
    return [shown(one) for one in ([first] if first else []) + last]


def shown(period: Period) -> dict:
    """What templates/live.html shows of a week."""
    random = period.accuracy is not None
    pairs = sorted({one.label for one in period.confused} | {one.prediction for one in period.confused})
    mistakes = [one for one in period.confused if one.label != one.prediction][:MISTAKES]
    sources = [
        (source, one) for source, one in period.sources.items() if source != NO_SOURCE or len(period.sources) > 1
    ]
    return {
        "title": f"{name(period.version)}, week of {period.start.day} {period.start:%b %Y}",
        "headline": headline(period).replace("+-", "\u00b1").replace(" %", "\u00a0%"),
        "about": _about(period),
        "random": random,
        "sources": [_row(source or "no source", one, one.used) for source, one in sources],
        "recalls": [_row(label, one, one.labels) for label, one in period.recalls.items()],
        "matrix": _matrix(period, pairs) if 1 < len(pairs) <= MATRIX else None,
        "mistakes": [] if len(pairs) <= MATRIX else [
            _row(f"{name(one.label)} \u2192 {name(one.prediction)}", one, one.labels) for one in mistakes
        ],
    }  # fmt: skip


def _about(period: Period) -> str:
    counts = f"{period.labels} of {period.answers} answers have a label"
    if period.accuracy is None:
        return f"{counts}. The shares below are those of the labels."
    return f"{counts}, {period.accuracy.used} of them asked for at random. Intervals of 95 % are estimated from these."


def _row(text: str, share: Share | LiveAccuracy, labels: int) -> dict:
    return {"name": name(text), "share": share, "labels": labels,
            "plot": plots.interval(share.value, share.low, share.high)}  # fmt: skip


def _matrix(period: Period, classes: list[str]) -> dict:
    found = {(one.label, one.prediction): one for one in period.confused}
    rows = [
        {"name": name(label), "cells": [_cell(found.get((label, answer)), label == answer) for answer in classes]}
        for label in classes
        if any(one.label == label for one in period.confused)
    ]
    return {"classes": [name(label) for label in classes], "rows": rows}


def _cell(share: Share | None, right: bool) -> dict | None:
    return {"share": share, "right": right} if share else None
