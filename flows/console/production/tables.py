"""The tables of /production as rows of CSV files."""

from collections.abc import Iterable, Iterator

from flows.console.index.windows import WindowRow
from flows.console.production.incidents import Incident
from flows.console.production.window import WindowFacts
from flows.console.production.words import OUTCOMES
from monitoring.contracts import Finding
from monitoring.drift.by_source import COLUMNS
from monitoring.live.periods import Period
from monitoring.plain_names import plain_name
from tasks.common.checks import Check

INCIDENTS = ("start", "end", "windows", "outcome", "measure", "ratio", "version", "retrainings", "expected")
WINDOWS = ("window", "start", "end", "outcome", "version", "rows", "measured", "drifted", "ratio", "sentence")
MEASURES = ("measure", "code", "status", "value", "bound", "p", "low", "high", "detail")
CHECKS = ("check", "code", "result", "value", "bound", "meaning")
SOURCES = ("source", "images", "measure", "code", "value", "reference", "ratio")
WEEKS = ("week", "version", "accuracy", "low", "high", "labels", "answers")
WEEK_SOURCES = ("week", "version", "source", "accuracy", "low", "high", "labels")


def incident_row(one: Incident) -> tuple:
    return (
        one.start, one.end, one.windows, OUTCOMES[one.outcome], one.measure, one.ratio, one.version,
        len(one.retrained), one.expected,
    )  # fmt: skip


def window_row(one: WindowRow) -> tuple:
    drifted = ", ".join(plain_name(code) for code in one.drifted)
    return (
        one.id, one.start, one.end, OUTCOMES[one.outcome], one.version, one.rows, one.used, drifted, one.worst,
        one.sentence,
    )  # fmt: skip


def measure_row(one: Finding) -> tuple:
    of = (one.status, one.value, one.threshold, one.p_value, one.low, one.high, one.detail)
    return (plain_name(one.name), one.name, *of)


def check_row(one: Check) -> tuple:
    return plain_name(one.name), one.name, one.status, one.value, one.bound, one.detail


def source_rows(facts: WindowFacts) -> Iterator[tuple]:
    """Each measure of each source of a window."""
    for one in facts.details.sources if facts.details else []:
        for code in COLUMNS:
            if (cell := one.cells.get(code)) is not None:
                yield one.source, one.rows, plain_name(code), code, cell.value, cell.was, cell.ratio


def week_row(one: Period) -> tuple:
    found = one.accuracy
    shares = (found.value, found.low, found.high) if found else (None, None, None)
    return (one.start.date(), one.version, *shares, one.labels, one.answers)


def week_source_rows(periods: Iterable[Period], week: str) -> Iterator[tuple]:
    """Each source of each week; week: the id of the only one that is wanted."""
    for period in periods:
        if week and period.id != week:
            continue
        for source, one in sorted(period.sources.items()):
            yield period.start.date(), period.version, source, one.value, one.low, one.high, one.used
