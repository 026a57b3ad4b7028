"""`/production/errors`: what production got wrong in a month, per class and source, for people."""

import functools
from collections.abc import Iterator
from urllib.parse import urlencode

from fastapi import APIRouter, Request
from fastapi.responses import Response

from flows.console.index.opinions import ood_threshold
from flows.console.production.reviews import reviews_of
from flows.console.shell.console import Console, console_of
from flows.console.shell.facts import recent
from flows.console.shell.page import csv_download, page
from flows.production.errors import default_month, error_review, months
from monitoring.live.errors import CONFIDENT, Error, Line, Review
from monitoring.live.estimate import sentence
from monitoring.pages import plots
from monitoring.review.asked import label_text
from tasks.common.errors import EvergreenError

SHOWN = 48  # wrong answers a page
SECONDS = 20.0  # between looks at what has changed
COLUMNS = ("image", "at", "source", "version", "label", "answer", "confidence", "out of distribution", "picked")
COLUMNS = (*COLUMNS, "split since", "the live version was trained on it")
LINES = ("name", "wrong", "low", "high", "labels", "known errors", "the month before", "change")
KINDS = {"": "all", "confident": "confident", "unfamiliar": "out of distribution", "new": "not in training yet"}

router = APIRouter()


@router.get("/production/errors")
def errors(
    request: Request, month: str = "", kind: str = "", label: str = "", source: str = "", after: str = "",
    format: str = "",
) -> Response:  # fmt: skip
    """The error review of a month."""
    console = console_of(request)
    log = console.log()
    known = recent(("months", console.root), lambda: months(log), SECONDS)
    chosen = month or recent(("last month", console.root), lambda: default_month(log), SECONDS)
    problem, found, measuring = "", None, False
    try:
        found, measuring = reviews_of(console.root).look(chosen, lambda: _review(console, chosen))
    except EvergreenError as error:
        problem, chosen = str(error), ""
    kind = kind if kind in KINDS else ""
    rows = [one for one in (found.errors if found else ()) if fits(one, kind, label, source)]
    if format == "csv":
        return csv_download(f"errors-{chosen}", COLUMNS, error_rows(rows))
    if format in ("classes", "sources"):
        lines = getattr(found, format) if found else []
        return csv_download(f"errors-{format}-{chosen}", LINES, map(line_row, lines))
    start = int(after) if after.isdecimal() and len(after) < 6 else 0
    state = {name: value for name, value in (("month", month), ("kind", kind), ("label", label), ("source", source))}

    def address(**changes: str) -> str:
        kept = {name: value for name, value in (state | changes).items() if value}
        return f"/production/errors?{urlencode(kept)}" if kept else "/production/errors"

    return page(
        request,
        "production/errors.html",
        title=f"What production got wrong{f' in {chosen}' if chosen else ''}",
        section="/production",
        month=chosen,
        months=known[:36],
        problem=problem,
        found=found,
        measuring=measuring,
        headline=sentence(found.accuracy) if found and found.accuracy else "",
        shown=rows[start : start + SHOWN],
        total=len(rows),
        kind=kind,
        kinds=KINDS,
        label=label,
        source=source,
        address=address,
        first=address() if start else "",
        next=address(after=str(start + SHOWN)) if start + SHOWN < len(rows) else "",
        text=label_text,
        plot=interval,
        confident=CONFIDENT,
    )


def _review(console: Console, month: str) -> Review | None:
    limit = functools.cache(functools.partial(ood_threshold, console.releases()))
    return error_review(console.root, console.params(), console.log(), month, limit)


def fits(one: Error, kind: str, label: str, source: str) -> bool:
    """Whether a wrong answer is of a kind, a class and a source; "" is each of them."""
    if kind == "confident" and (one.confidence or 0) < CONFIDENT:
        return False
    if (kind == "unfamiliar" and not one.unfamiliar) or (kind == "new" and one.learnt):
        return False
    names = one.label if isinstance(one.label, list) else [one.label]
    return (not label or label in names) and (not source or source == (one.source or ""))


def error_rows(errors: list[Error]) -> Iterator[tuple]:
    """A row for each wrong answer."""
    for one in errors:
        said = (label_text(one.label), label_text(one.prediction), one.confidence)
        unfamiliar = "" if one.unfamiliar is None else "yes" if one.unfamiliar else "no"
        learnt = "yes" if one.learnt else "no"
        yield one.id, one.at, one.source, one.version, *said, unfamiliar, one.picked, one.split or "", learnt


def line_row(line: Line) -> tuple:
    """A row for a class or a source."""
    wrong = line.wrong
    shares = (wrong.value, wrong.low, wrong.high) if wrong else (None, None, None)
    return line.name, *shares, line.labels, line.errors, line.before.value if line.before else None, line.change


def interval(line: Line) -> str:
    """The share of wrong answers as a picture."""
    return plots.interval(line.wrong.value, line.wrong.low, line.wrong.high) if line.wrong else ""
