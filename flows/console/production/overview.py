"""What /production shows: the chart, incidents or windows page by page, filters, live accuracy."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from flows.console.index.index import Index
from flows.console.index.windows import WindowFilter, WindowOutline
from flows.console.production.incidents import Incident, incidents
from flows.console.production.words import OUTCOMES
from monitoring.contracts import Expected
from monitoring.live.estimate import LiveAccuracy
from monitoring.live.periods import NO_SOURCE, Period
from monitoring.pages import live, plots
from monitoring.pages.render import name

MOST = 50  # rows of a page
WEEKS = 10  # of live accuracy
WORST = 5  # sources shown before the rest is folded
SOURCES = 30  # sources at all; the CSV has all of them
VIEWS = ("incidents", "windows")


@dataclass(frozen=True)
class Chosen:
    """The filters of the page, as its address says them."""

    outcome: str = ""
    version: str = ""
    source: str = ""
    since: str = ""  # dates, as a form sends them
    until: str = ""
    view: str = "incidents"

    def filter(self) -> WindowFilter:
        """For the index. A date that is none does not filter."""
        until = _day(self.until)
        return WindowFilter(
            outcomes=(self.outcome,) if self.outcome in OUTCOMES else (),
            versions=(self.version,) if self.version else (),
            source=self.source or None,
            since=_day(self.since),
            until=until + timedelta(days=1) if until else None,
        )

    def address(self, **changes: str) -> str:
        """The page's address with some of its state changed."""
        values = {**vars(self), **changes}
        kept = {key: value for key, value in values.items() if value and (key, value) != ("view", "incidents")}
        return f"/production?{urlencode(kept)}" if kept else "/production"


def chosen(query: Mapping[str, str]) -> Chosen:
    """The filters in an address; unknown values count as none."""
    values = {key: query.get(key, "")[:200] for key in ("outcome", "version", "source", "since", "until", "view")}
    values["view"] = values["view"] if values["view"] in VIEWS else "incidents"
    return Chosen(**values)


def _day(text: str) -> datetime | None:
    try:
        found = datetime.fromisoformat(text).replace(tzinfo=UTC) if text else None
        return found if found is None or found.year < datetime.max.year else None  # there is no day after the last one
    except ValueError:
        return None


def outline_and_counts(index: Index, wanted: WindowFilter) -> tuple[list[WindowOutline], dict[str, dict[str, int]]]:
    """All wanted windows, oldest first, and how many there are of each outcome, version and source.

    With thousands of windows this takes most of the page's time, so it is kept until the windows change.
    """
    stamp = index.windows_stamp()
    return _kept(index, stamp, wanted) if stamp else (index.window_outline(wanted), index.window_counts(wanted))


@functools.lru_cache(maxsize=16)
def _kept(index: Index, stamp: str, wanted: WindowFilter) -> tuple[list[WindowOutline], dict[str, dict[str, int]]]:
    return index.window_outline(wanted), index.window_counts(wanted)


def page_of_incidents(
    windows: Sequence[WindowOutline], marks: Sequence[Expected], after: str, most: int = MOST
) -> tuple[list[Incident], str]:
    """(at most `most` incidents, newest first, that began before window `after`; where the next page begins, or "")."""
    found = [one for one in incidents(windows, marks)[::-1] if not after or one.first < after]
    return found[:most], found[most - 1].first if len(found) > most else ""


def page_of_windows(index: Index, wanted: WindowFilter, after: str, most: int = MOST):
    """(at most `most` windows, newest first; where the next page begins, or "")."""
    found = index.windows(wanted, after or None, most + 1)
    return found[:most], found[most - 1].id if len(found) > most else ""


def accuracy(known: live.Live, wanted: str) -> dict[str, Any] | None:
    """Live accuracy: the week `wanted`, else the one that speaks for the live model, and a row for each last week."""
    if not (periods := known.periods):
        return None
    period = next((one for one in periods if one.id == wanted), None) or live.newest(periods, known.live)
    sources = [
        (source, one) for source, one in period.sources.items() if source != NO_SOURCE or len(period.sources) > 1
    ]
    sources.sort(key=lambda item: (item[1].value, -item[1].used))
    rows = [source_row(source, one) for source, one in sources[:SOURCES]]
    shown = live.shown(period)
    return {
        "id": period.id,
        "title": shown["title"],
        "headline": shown["headline"],
        "about": shown["about"],
        "worst": rows[:WORST],
        "rest": rows[WORST:],
        "more": max(len(sources) - SOURCES, 0),
        "weeks": [week_row(one, one.id == period.id) for one in periods[: -WEEKS - 1 : -1]],
    }


def source_row(source: str, share: LiveAccuracy) -> dict[str, Any]:
    """A source and how often its answers were right."""
    plot = plots.interval(share.value, share.low, share.high)
    return {"name": name(source or "no source"), "share": share, "labels": share.used, "plot": plot}


def week_row(period: Period, chosen: bool) -> dict[str, Any]:
    """One week of a model in the table of weeks."""
    found = period.accuracy
    return {
        "id": period.id,
        "start": period.start,
        "version": name(period.version),
        "value": found.value if found else None,
        "low": found.low if found else None,
        "high": found.high if found else None,
        "plot": plots.interval(found.value, found.low, found.high) if found else "",
        "labels": period.labels,
        "answers": period.answers,
        "chosen": chosen,
    }
