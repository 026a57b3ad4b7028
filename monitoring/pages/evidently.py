"""Drift reports in an Evidently workspace: one small snapshot a window, for its own UI and dashboard.

A snapshot compares a sample of the window with a sample of the reference: image properties, confidence, OOD score,
predicted class and a few principal directions of the embeddings, never the embeddings themselves. Beside them stand
our own calibrated measures, each relative to its threshold, which are what the decision rests on.

Why not Evidently's defaults throughout: a UI process keeps every snapshot of a project in memory, and nine tenths of
a snapshot are copies of widgets, plot templates and digits nobody sees; so these are taken out, and the plots of old
windows too. Its HTML leaves names
unescaped, so none goes in that could be markup. HTML (4 MB) is rendered when someone asks and is never kept.

    workspace/<PROJECT>/{metadata,dashboard}.json, snapshots/<time-ordered id of the window>.json

N rows, D feature dimensions, P principal directions.
"""

import json
import os
import sys
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from monitoring.contracts import DriftDecision, Finding, Measures
from monitoring.pages.columns import DIRECTIONS, confidence, directions, lists, numbers
from tasks.common.errors import EvergreenError
from tasks.common.files import fsync_dir, sha256_bytes

PROJECT = uuid.UUID("5f0e7c1a-3b52-5d0c-9a51-0e0e9d0f8a11")  # one for ever: a second project would split the history
NUMBERS = ("brightness", "contrast", "sharpness", "entropy", "width", "height", "confidence", "ood")
DIGITS = 4  # significant, of what is plotted
LETTERS = 60  # of a name
WHOLE = 500  # snapshots with their plots; older ones keep the values, which is all the dashboard shows
FALSE_ALARMS = 0.01  # of Evidently's own tests, over all columns of a snapshot together (Bonferroni)
BESIDE = ", relative to its threshold (above 1: drift)"
MEASURE = "evidently:metric_v2:EvergreenMeasure"


def add(
    workspace: Path,
    window_table: pa.Table,
    reference_table: pa.Table,
    measures: Measures,
    decision: DriftDecision,
    *,
    classes: Sequence[str],
    rows: int = 500,
    keep: int = 5_000,
) -> Path:
    """Write the window's snapshot and drop the oldest beyond `keep`. The same window again replaces its snapshot.

    window_table: of schema.log_schema; reference_table: of reference.schema; classes: names in the model's order.
    """
    with _quiet():
        snapshot = _snapshot(window_table, reference_table, measures, decision, classes, rows)
    project = _project(workspace)
    path = project / "snapshots" / f"{snapshot_id(measures.window.id)}.json"
    _place(workspace, path, json.dumps(_light(snapshot), separators=(",", ":"), allow_nan=False))
    _thin(workspace)
    prune(workspace, keep)
    return path


def prune(workspace: Path, keep: int) -> int:
    """Remove the oldest snapshots until `keep` are left; how many went. Names sort by the window's time."""
    snapshots = sorted((workspace / str(PROJECT) / "snapshots").glob("*.json"))
    gone = snapshots[: max(len(snapshots) - keep, 0)]
    for path in gone:
        path.unlink(missing_ok=True)
    return len(gone)


def html(workspace: Path, window_id: str) -> str:
    """The window's snapshot as Evidently's own page, 4 MB. Raises EvergreenError where there is none."""
    found = _find(workspace, window_id)
    with _quiet():
        from evidently.core.report import Snapshot

        return Snapshot.loads(found.read_text(encoding="utf-8")).get_html_str(as_iframe=False)


def ui_path(workspace: Path, window_id: str) -> str:
    """Where Evidently's UI shows the window, below its address. Raises EvergreenError where it does not."""
    return f"/projects/{PROJECT}/reports/{_find(workspace, window_id).stem}"


def evidently_ui_command(workspace: Path, port: int) -> list[str]:
    """Command that serves Evidently's UI on loopback (up in ~11 s). Run it with DO_NOT_TRACK=1 in its environment."""
    _project(workspace)  # the UI reads projects when it starts
    return [
        *(sys.executable, "-m", "evidently.cli", "ui"),
        *("--host", "127.0.0.1", "--port", str(port), "--workspace", str(workspace)),
    ]


def snapshot_id(window_id: str) -> uuid.UUID:
    """A version 7 UUID (RFC 9562) of the end in the window's id: sorts by time, the same for the same window."""
    end = datetime.strptime(window_id.partition("-")[2], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    random = int(sha256_bytes(window_id.encode())[:20], 16)
    value = int(end.timestamp() * 1000) << 80 | random
    value = value & ~(0xF << 76) | 0x7 << 76
    return uuid.UUID(int=value & ~(0x3 << 62) | 0x2 << 62)


def clean(text: str) -> str:
    """`text` without anything that HTML, a script or a text direction could make something of, and short."""
    kept = "".join(letter if letter.isprintable() and letter not in "<>&\"'`\\" else " " for letter in text)
    kept = " ".join(kept.split())
    return (kept if len(kept) <= LETTERS else kept[: LETTERS - 1] + "…") or "(no name)"


# --- what goes in -----------------------------------------------------------------------------------------------------


def columns(
    window_table: pa.Table, reference_table: pa.Table, classes: Sequence[str], rows: int
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """(window, reference): name -> values without gaps, at most `rows` of each; those empty on a side go."""
    window = _sample(window_table.filter(pc.is_valid(window_table["prediction"])), rows)
    reference = _sample(reference_table, rows)
    now = {name: numbers(window, name) for name in NUMBERS} | {"confidence": confidence(window)}
    then = {name: numbers(reference, name) for name in NUMBERS} | {"confidence": confidence(reference)}
    sides = directions(lists(window, "features"), lists(reference, "features"))
    for number in range(sides[0].shape[1]):
        now[f"embedding {number + 1}"], then[f"embedding {number + 1}"] = (side[:, number] for side in sides)
    names = {label: clean(label) for label in classes}
    now["prediction"] = np.array([_label(value, names) for value in window["prediction"].to_pylist()], object)
    then["prediction"] = np.array(
        [names[classes[int(np.argmax(row))]] for row in lists(reference, "probabilities")], object
    )
    both = [name for name in now if len(now[name]) and len(then.get(name, ()))]
    return {name: now[name] for name in both}, {name: then[name] for name in both}


def _sample(table: pa.Table, rows: int) -> pa.Table:
    """Up to `rows` rows, the same ones each time."""
    if table.num_rows <= rows:
        return table
    return table.take(np.sort(np.random.default_rng(0).choice(table.num_rows, rows, replace=False)))


def _label(value: Any, names: dict[str, str]) -> str:
    """A prediction in words: a multi-label one joins its labels."""
    if isinstance(value, str):
        return names.get(value) or clean(value)
    return clean(" + ".join(names.get(label) or clean(label) for label in value) or "(none)")


# --- the snapshot -----------------------------------------------------------------------------------------------------


@contextmanager
def _quiet() -> Iterator[None]:
    """No telemetry (it is decided when evidently is imported, and again at each event) and no warnings of SciPy's."""
    import warnings

    os.environ["DO_NOT_TRACK"] = "1"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _snapshot(
    window_table: pa.Table,
    reference_table: pa.Table,
    measures: Measures,
    decision: DriftDecision,
    classes: Sequence[str],
    rows: int,
) -> dict:
    """Evidently's snapshot as its own dict."""
    import pandas as pd
    from evidently import DataDefinition, Dataset, Report
    from evidently.presets import DataDriftPreset

    now, then = columns(window_table, reference_table, classes, rows)
    names = [name for name in now if name != "prediction"]
    definition = DataDefinition(
        numerical_columns=names, categorical_columns=["prediction"] if "prediction" in now else []
    )
    # fixed, not per column found: a threshold is part of a series' name on the dashboard
    threshold = FALSE_ALARMS / (len(NUMBERS) + DIRECTIONS + 1)
    metrics: list = [_metric()(measure=name, value=ratio) for name, ratio in ratios(measures.findings)]
    if now:
        preset = DataDriftPreset(
            num_method="ks", cat_method="chisquare", num_threshold=threshold, cat_threshold=threshold
        )
        metrics.append(preset)
    window = measures.window
    report = Report(
        metrics,
        metadata={"decision": decision.outcome, "model": clean(window.version), "window": clean(window.id)},
        tags=[decision.outcome],
    )

    def dataset(side: dict[str, np.ndarray]) -> Dataset:
        frame = pd.DataFrame({name: pd.Series(values) for name, values in side.items()})  # gaps were left out: NaN
        return Dataset.from_pandas(frame if side else pd.DataFrame({"rows": [window.rows]}), data_definition=definition)

    # naive UTC: the UI compares with naive times, and shows what it is given
    stamp = window.end.astimezone(UTC).replace(tzinfo=None)
    run = report.run(dataset(now), dataset(then), timestamp=stamp, name=f"{decision.outcome}: {clean(window.id)}")
    return json.loads(run.dumps())


def ratios(findings: Sequence[Finding]) -> list[tuple[str, float]]:
    """(name, value relative to its threshold) of the judged findings: above 1 is drift."""
    return [
        (clean(finding.name), finding.value / finding.threshold)
        for finding in findings
        if finding.status != "info" and finding.value is not None and finding.threshold and np.isfinite(finding.value)
    ]


def _metric() -> type:
    """Evidently's metric for one of our measures. Made once: Evidently keeps a register of metric classes."""
    if _MADE:
        return _MADE[0]
    from evidently.core.metric_types import SingleValueCalculation, SingleValueMetric

    class EvergreenMeasure(SingleValueMetric):
        measure: str
        value: float

    class EvergreenMeasureCalculation(SingleValueCalculation[EvergreenMeasure]):
        def calculate(self, context, current_data, reference_data):
            return self.result(self.metric.value)

        def display_name(self) -> str:
            return self.metric.measure + BESIDE

        def to_metric_config(self):
            config = super().to_metric_config()
            config.params.pop("value", None)  # a series is named by its parameters: the value must not be one
            return config

    _MADE.append(EvergreenMeasure)
    return EvergreenMeasure


_MADE: list[type] = []


def _light(snapshot: dict) -> dict:
    """`snapshot` without what nobody sees: the metrics' second copy of the widgets, plot templates, the plots over row
    numbers (rows are a random sample), digits beyond DIGITS."""
    for result in snapshot["metric_results"].values():
        result["widget"] = []
    for widget in snapshot["widgets"]:
        if widget["type"] == "big_table":
            _drop_row_plots(widget)
        elif str(widget["title"]).endswith(BESIDE):
            widget["size"] = 1  # two in a row
    return _slim(snapshot)


def _thin(workspace: Path) -> None:
    """Take the plots out of snapshots just become older than WHOLE: with thousands a UI would need gigabytes."""
    snapshots = sorted((workspace / str(PROJECT) / "snapshots").glob("*.json"))
    for path in snapshots[-WHOLE - 20 : -WHOLE]:  # some, should an earlier one have been missed
        snapshot = json.loads(path.read_text(encoding="utf-8"))
        if any(widget["type"] == "big_table" for widget in snapshot["widgets"]):
            kept = [widget for widget in snapshot["widgets"] if widget["type"] == "counter"]
            label = {"value": "", "label": f"Plots are kept for the newest {WHOLE} windows."}
            snapshot["widgets"] = [*kept, *({**widget, "size": 2, "title": "", "params": {"counters": [label]},
                                             "id": f"{widget['id']}-old"} for widget in kept[-1:])]  # fmt: skip
            _place(workspace, path, json.dumps(snapshot, separators=(",", ":"), allow_nan=False))


def _drop_row_plots(table: dict) -> None:
    dropped = set()
    for row in table["params"]["data"]:
        parts = row["details"]["parts"]
        dropped |= {part["id"] for part in parts if part["title"] == "DATA DRIFT"}
        row["details"]["parts"] = [part for part in parts if part["id"] not in dropped]
    table["additionalGraphs"] = [graph for graph in table["additionalGraphs"] if graph["id"] not in dropped]


def _slim(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _slim(part) for name, part in value.items() if name != "template"}
    if isinstance(value, list):
        return [_slim(part) for part in value]
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if np.isfinite(value) else None
    return value


# --- the workspace ----------------------------------------------------------------------------------------------------


def _project(workspace: Path) -> Path:
    """The project's folder, with its description and dashboard if there are none: a user may change them."""
    folder = workspace / str(PROJECT)
    (folder / "snapshots").mkdir(parents=True, exist_ok=True)
    if not (folder / "dashboard.json").exists():
        _place(workspace, folder / "dashboard.json", json.dumps(_dashboard()))
    if not (folder / "metadata.json").exists():
        about = {
            "id": str(PROJECT),
            "name": "Production",
            "description": "Windows of production against the model's own reference",
        }
        _place(workspace, folder / "metadata.json", json.dumps(about))
    return folder


def _dashboard() -> dict:
    """Panels that show the history: our measures, and Evidently's count of drifted columns. Few, for each series costs
    the browser half a second at 5,000 windows."""

    def panel(number: int, title: str, subtitle: str, kind: dict, metric: str, legend: str, view: str | None) -> dict:
        values = [
            {
                "metric": f"evidently:metric_v2:{metric}",
                "legend": legend,
                "tags": [],
                "metadata": {},
                "metric_labels": {"value_type": view} if view else {},
                "view_params": {},
            }
        ]
        known = str(uuid.uuid5(PROJECT, str(number)))
        return {
            "id": known,
            "title": title,
            "subtitle": subtitle,
            "size": "full",
            "values": values,
            "plot_params": kind,
        }

    line = {"plot_type": "line"}
    panels = [
        panel(
            *(1, "Evergreen's measures, relative to their thresholds"),
            "Calibrated for this model: decisions rest on these. Above 1 is drift.",
            *(line, MEASURE.rsplit(":", 1)[1], "{{measure}}", None),
        ),
        panel(
            *(2, "Columns that Evidently finds drifted"),
            "Kolmogorov-Smirnov and chi-square tests of sampled columns, for a second look.",
            *({"plot_type": "bar", "is_stacked": False}, "DriftedColumnsCount", "columns", "count"),
        ),
    ]
    tab = {"id": str(uuid.uuid5(PROJECT, "tab")), "title": "Drift", "panels": [panel["id"] for panel in panels]}
    return {"tabs": [tab], "panels": panels}


def _find(workspace: Path, window_id: str) -> Path:
    """The window's snapshot. The id holds the window's end, so the folder is not searched."""
    path = workspace / str(PROJECT) / "snapshots" / f"{snapshot_id(window_id)}.json"
    if not path.is_file():
        raise EvergreenError(
            f"there is no Evidently snapshot of window {window_id}: it was pruned (report.keep in params.yaml) or the "
            "window was never reported"
        )
    return path


def _place(workspace: Path, path: Path, text: str) -> None:
    """Write `path` whole or not at all. The temporary file lies beside the workspace: a running UI watches the
    workspace and takes in files that are moved there from outside, but not files renamed within."""
    outside = workspace.parent / f".{workspace.name}.tmp"
    outside.mkdir(parents=True, exist_ok=True)
    temporary = outside / f"{uuid.uuid4().hex}.json"
    try:
        with open(temporary, "x", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        fsync_dir(path.parent)
    finally:
        temporary.unlink(missing_ok=True)
