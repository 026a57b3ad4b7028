"""Shared by the drift benchmarks: a reference of answered rows, and windows measured and decided in turn."""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa

from benchmarks.fashion_windows import reference_table
from monitoring.contracts import Measures, Situation, Window
from monitoring.decide import decide
from monitoring.drift import reference
from monitoring.drift.reference import Reference
from monitoring.drift.window import measure_window
from tasks.common.files import content_key
from tasks.common.params import DecideParams, DriftParams

START = datetime(2026, 1, 1, tzinfo=UTC)
QUARTER = timedelta(minutes=15)
MORE = ("label", "retrain")  # decisions that are more than `watch`


def reference_of(rows: pa.Table, about: dict, cache: Path) -> Reference:
    """The reference of a bundle whose answered rows are `rows`."""
    return reference.from_table(reference_table(rows), about, content_key(rows["id"].to_pylist()), cache)


def window(number: int, rows: int) -> Window:
    """The window of quarter of an hour `number`."""
    start = START + number * QUARTER
    name = f"{start:%Y%m%dT%H%M%SZ}-{start + QUARTER:%Y%m%dT%H%M%SZ}"
    about = {"version": "v0.1.0", "bundle": "ab" * 32, "rows": rows, "used": rows}
    return Window(id=name, start=start, end=start + QUARTER, **about)


def follow(
    tables: Iterable[pa.Table], reference: Reference, drift: DriftParams, policy: DecideParams
) -> Iterator[tuple[str, bool]]:
    """Yield (outcome, whether anything drifted) of each window, each decided after the ones before it."""
    past: list[Measures] = []
    for number, table in enumerate(tables):
        past.append(measure_window(table, window(number, len(table)), reference, drift))
        now = START + (number + 1) * QUARTER
        facts = Situation(now=now, released_at=START, last_row_at=now, last_monitor_at=now - QUARTER)
        yield decide(past, facts, policy).outcome, bool(past[-1].drifted())
