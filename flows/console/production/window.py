"""What the page of one window shows, from the journal: measures, sources, images, its incident."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from flows.console.index.index import Index
from flows.console.index.windows import WindowFilter, WindowOutline
from flows.console.production.incidents import Incident, incident_of
from flows.publishing.history import find, known_history
from monitoring.contracts import Bins, DriftDecision, Expected, Finding, Measures, WindowDetails
from monitoring.drift.by_source import COLUMNS
from monitoring.expected import covers, judged
from monitoring.journal import Journal, window_times
from monitoring.pages import plots
from monitoring.pages.render import name
from monitoring.pages.window_page import drift_ratio
from monitoring.plain_names import plain_name
from tasks.common.errors import EvergreenError
from tasks.releases.store import Releases

AROUND = timedelta(days=60)  # windows that are looked at for the incident and the trend
TREND = 60  # bars of the trend
SOURCES = 25  # rows of the heat table
HOT = ((1.0, "cool"), (2.0, "warm"), (4.0, "hot"))  # ratio below which a cell has this class


@dataclass(frozen=True)
class WindowFacts:
    """A window with what people marked, and the incident that it is part of."""

    measures: Measures  # with "expected" where a mark says so
    decision: DriftDecision
    details: WindowDetails | None  # None: it was measured before details were kept
    incident: Incident | None
    around: list[WindowOutline]  # up to now, oldest first
    marks: list[Expected]  # that hold in the window
    revised: datetime | None


def read_window(journal: Journal, index: Index, marks: Sequence[Expected], window: str) -> WindowFacts | None:
    """The facts of a window; None if the journal does not know it."""
    found = journal.read(window) if window_times(window) else None
    if found is None:
        return None
    measures, decision = found
    start = measures.window.start
    around = index.window_outline(WindowFilter(since=start - AROUND, until=start + AROUND))
    if all(one.id != window for one in around):  # the index has not seen it yet
        around = sorted([*around, _outline(measures, decision)], key=lambda one: one.id)
    return WindowFacts(
        measures=judged(measures, marks),
        decision=decision,
        details=journal.details(window),
        incident=incident_of(around, window),
        around=around,
        marks=[mark for mark in marks if covers(mark, (mark.measures or [""])[0], measures.window)],
        revised=journal.revised_at(window),
    )


def _outline(measures: Measures, decision: DriftDecision) -> WindowOutline:
    about, drifted = measures.window, measures.drifted()
    ranked = sorted(drifted, key=lambda finding: -(drift_ratio(finding) or 0))
    worst = drift_ratio(ranked[0]) if ranked else None
    names = tuple(finding.name for finding in ranked)
    return WindowOutline(
        about.id, about.start, about.end, decision.outcome, about.version, about.bundle, names, worst, False
    )


def trend(around: Sequence[WindowOutline], window: str) -> list[WindowOutline]:
    """The last TREND windows up to this one, and a few after it."""
    place = next((n for n, one in enumerate(around) if one.id == window), len(around) - 1)
    end = min(len(around), place + 11)
    return list(around[max(0, end - TREND) : end])


# --- measures


def measure_rows(measures: Measures) -> list[dict[str, Any]]:
    """The judged measures, those that moved most first."""
    kept = [one for one in measures.findings if one.status in ("drifted", "expected", "error", "ok")]
    order = {"drifted": 0, "error": 1, "expected": 2, "ok": 3}
    kept.sort(key=lambda one: (order[one.status], -(drift_ratio(one) or 0)))
    return [{"finding": one, "ratio": drift_ratio(one)} for one in kept]


def named(measures: Measures, code: str) -> Finding | None:
    """The finding called `code`."""
    return next((one for one in measures.findings if one.name == code), None)


def drawn(bins: Bins) -> Any:
    """A distribution as a plot."""
    title = f"{plain_name(bins.name)}: reference and this window"
    return plots.draw_bins(bins.low, bins.high, bins.was, bins.now, title)


# --- sources


def heat(details: WindowDetails | None, most: int = SOURCES) -> dict[str, Any] | None:
    """The table source x measure: for each cell its value, the reference's, and a class by how far it moved."""
    if details is None or not details.sources:
        return None
    columns = [code for code in COLUMNS if any(code in one.cells for one in details.sources)]
    rows = [
        {
            "source": name(one.source or "no source"),
            "rows": one.rows,
            "cells": [heat_cell(one.cells.get(code)) for code in columns],
        }
        for one in details.sources[:most]
    ]
    return {"columns": columns, "rows": rows, "more": max(len(details.sources) - most, 0)}


def heat_cell(cell: Any) -> dict[str, Any] | None:
    """A cell and its class: "few" rows, or how far it is from the reference."""
    if cell is None:
        return None
    if cell.ratio is None:
        return {"cell": cell, "kind": "few", "said": "too few images to say"}
    kind = next((word for bound, word in HOT if cell.ratio < bound), "hottest")
    said = "as in the reference" if cell.ratio < 1 else f"{cell.ratio:.1f} times what chance explains"
    return {"cell": cell, "kind": kind, "said": said}


# --- actions


def back_to(root: Path, releases: Releases) -> tuple[str | None, str]:
    """(the version that a rollback would make live, None and why there is none)."""
    try:
        target = find(known_history(root, releases), None)
    except EvergreenError as error:
        return None, str(error)
    return target.version, f"live from {target.at.astimezone(UTC):%d %b %Y}"
