"""Print releases, runs and differences as tables.

Names come from users, so rich must not interpret them as markup.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from flows.experiments.plan import spoken
from flows.labels.class_list import ClassRow
from flows.publishing.experiment_table import Row
from flows.publishing.history import Period
from flows.runs.overview import WORDS, RunRow
from flows.versions.diff import Versions
from tasks.common.progress import duration
from tasks.common.schemas import SPLITS
from tasks.common.text import one_line
from tasks.labels.changes import Change

MOST = 40  # rows printed of one table
LETTERS = 400  # characters printed of a reason


def print_releases(
    console: Console,
    periods: Sequence[Period],
    retired: dict[str, dict[str, str]],
    made_by: dict[str, str],
    floors: dict[str, str],
) -> None:
    """Print which version was live when, newest first.

    made_by: version -> the Evergreen version that made it; floors: version -> how it stood to its floors.
    """
    for period in reversed(periods[-MOST:]):
        until = f"until {_time(period.until)} UTC" if period.until else "live"
        gone = ", retired" if period.version in retired else ""
        line = f"from {_time(period.since)} UTC, {until}{gone}, by {period.by}, run {period.run_id}"
        line += f", Evergreen {made_by[period.version]}" if period.version in made_by else ""
        line += f", floors: {floors[period.version]}" if period.version in floors else ""
        _entry(console, period.version, line, period.why, "green" if period.until is None else "")
    _more(console, len(periods))


def print_runs(console: Console, runs: dict[str, dict[str, Any]]) -> None:
    """Print how runs ended, newest first."""
    if runs:
        console.print(Text("runs", style="italic"))
    for run_id, run in list(reversed(runs.items()))[:MOST]:
        by = f", by {run['by']}" if run.get("by") else ""
        words = WORDS.get(run["outcome"], run["outcome"])
        _entry(console, run_id, " ".join([words, run.get("version") or ""]).strip() + by, run["sentence"])
    _more(console, len(runs))


def print_run_rows(console: Console, rows: Sequence[RunRow]) -> None:
    """Print runs of every kind, newest first."""
    for row in rows:
        took = f", {duration(row.seconds).removeprefix('about ')}" if row.seconds is not None else ""
        began = f"{_time(row.began)} UTC, " if row.began else ""
        line = f"{' '.join(filter(None, [row.words, row.version]))} ({began}{row.why}{took})"
        _entry(console, row.id, line, row.sentence)


def print_experiments(console: Console, rows: Sequence[Row]) -> None:
    """Print experiments and runs with their figures, the best calibration score first."""
    ranked = sorted(rows, key=lambda row: row.figures.get("calibration_score") or 0.0, reverse=True)
    table = Table(box=None, pad_edge=False)
    for column in ("experiment", "settings", "gate", "calibration", "test", "gain", "few", "ms", "seconds"):
        table.add_column(column, justify="left" if column in ("experiment", "settings", "gate") else "right")
    for row in ranked[:MOST]:
        found = row.figures
        shown = [found.get(name) for name in ("calibration_score", "test", "gain", "few")]
        cells = [row.name, one_line(spoken(row.changes) if row.kind == "experiment" else "a run", LETTERS)]
        cells += [str(found.get("outcome", "")), *("" if value is None else f"{value:.3f}" for value in shown)]
        cells += ["" if found.get(name) is None else f"{found[name]:.1f}" for name in ("latency_ms", "seconds")]
        table.add_row(*map(Text, cells))
    console.print(table)
    _more(console, len(rows))


def _entry(console: Console, name: str, line: str, why: str, style: str = "") -> None:
    """Print a line and, indented under it, the reason, which would be too long for a table's cell."""
    console.print(Text.assemble((name, f"bold {style}".strip()), "  ", (_cell(line), style)), soft_wrap=True)
    why = _cell(why)
    shown = why if len(why) <= LETTERS else f"{why[: LETTERS - 1]}\u2026 (--json shows all)"
    console.print(Padding(Text(shown, style="dim"), (0, 0, 0, 4)))


def print_rejudged(console: Console, found: dict[str, dict[str, tuple[Any, Any]]]) -> None:
    """Print the figures of versions that corrected labels change: as judged then, and by today's labels."""
    rows = [(version, name, *sides) for version, figures in found.items() for name, sides in figures.items()]
    print_table(console, "judged again by today's labels", ("version", "figure", "then", "now"), rows)


def print_diff(console: Console, found: Versions, names: Mapping[str, str]) -> None:
    """Print every difference, one table per kind. names: what the owner calls images, by id."""
    console.print(Text(f"{found.a} -> {found.b}", style="bold"))
    for kind, entries in found.batches.items():
        for entry in entries:
            about = entry["why"] if "why" in entry else _batch(entry)
            console.print(Text(f"  batch {kind}: {entry['batch']} ({about})"))
    counts = [(f"images, {split}", by_class) for split, by_class in found.images.items()]
    counts += [(f"labels to {action}", by_class) for action, by_class in found.actions.items()]
    rows = [(what, name, a, b, f"{b - a:+d}") for what, by_class in counts for name, (a, b) in by_class.items()]
    print_table(console, "data and labels", ("what", "class", found.a, found.b, ""), rows)
    labels = [
        (entry["id"][:12], names.get(entry["id"], ""), str(entry["a"]), str(entry["b"])) for entry in found.relabelled
    ]
    print_table(console, "labels corrected by people", ("image", "yours", found.a, found.b), labels)
    print_table(console, "params", ("key", found.a, found.b), [(key, a, b) for key, (a, b) in found.params.items()])
    print_table(console, "code", ("file",), [(name,) for name in found.code])
    metrics = [(name, a, b, way) for name, (a, b, way) in found.metrics.items()]
    print_table(console, "metrics", ("figure", found.a, found.b, ""), metrics)
    for line in found.unreadable:
        console.print(Text(f"not compared: {line}", style="yellow"))
    console.print(Text(found.why))


def _batch(entry: Mapping[str, Any]) -> str:
    rows, kind = entry["rows"], entry["kind"]
    return f"{rows} labels by people" if kind == "labels" else f"{kind}, {rows} images"


def print_table(console: Console, title: str, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print `rows` under `title`; nothing for no rows."""
    if not rows:
        return
    table = Table(title=title or None, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for name in header:
        table.add_column(Text(name), overflow="fold")
    for row in rows[:MOST]:
        table.add_row(
            *(Text(_cell(value), style={"live": "green", "worse": "red"}.get(str(value), "")) for value in row)
        )
    console.print(table)
    _more(console, len(rows))


def _more(console: Console, count: int) -> None:
    if count > MOST:
        console.print(Text(f"  ... and {count - MOST} more (--json shows all)"))


def _cell(value: Any) -> str:
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else " ".join(str(value).split())


def _time(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S}"


def print_classes(console: Console, rows: Sequence[ClassRow]) -> None:
    """Print every class with its labelled images by split, its parent, and what it waits for."""
    splits = [split for split in SPLITS if any(split in row.images for row in rows)]
    table = Table(box=None, padding=(0, 2, 0, 0))
    for title in ("class", *splits, "parent", "", "definition"):
        table.add_column(title, justify="right" if title in splits else "left")
    for row in rows:
        counts = [f"{row.images.get(split, 0):,}" for split in splits]
        texts = [Text(one_line(text)) for text in (row.parent or "", row.note, row.meaning)]
        table.add_row(Text(one_line(row.name)), *counts, *texts)
    console.print(table)


def print_changes(console: Console, changes: Sequence[Change]) -> None:
    """Print every change of the classes, newest first."""
    undone = {change.undoes for change in changes if change.kind == "undo"} - {None}
    for change in list(reversed(changes))[:MOST]:
        line = f"{one_line(change.what(), LETTERS)}, {change.at[:10]}, by {one_line(change.by)}"
        _entry(console, change.id, line, change.why, "strike" if change.id in undone else "")
    _more(console, len(changes))
