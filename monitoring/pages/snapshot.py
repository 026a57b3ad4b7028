"""An Evidently snapshot of one window: what goes in, Evidently's run, and what is taken out again.

It compares a sample of the window with a sample of the reference: image properties, confidence, OOD score, predicted
class and a few principal directions of the embeddings, never the embeddings themselves. It also contains Evergreen's
calibrated measures, each relative to its threshold; the decision rests on these.

A UI process keeps all snapshots of a project in memory. Nine tenths of a snapshot are copies of widgets, plot templates
and digits that are never shown, so these are removed. Evidently does not escape names in its HTML, so names are cleaned
of everything that could be markup. N rows, D feature dimensions, P principal directions.
"""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from monitoring.contracts import Finding
from monitoring.pages.columns import DIRECTIONS, MeasuredWindow, directions, lists, numbers
from tasks.common.text import one_line, single_spaced

NUMBERS = ("brightness", "contrast", "sharpness", "entropy", "width", "height", "confidence", "ood")
DIGITS = 4  # significant digits of what is plotted
LETTERS = 60  # of a name
FALSE_ALARMS = 0.01  # of Evidently's own tests, over all columns of a snapshot together (Bonferroni)
RATIO_TITLE = ", relative to its threshold (above 1: drift)"
MEASURE = "evidently:metric_v2:EvergreenMeasure"


def make_snapshot(shown: MeasuredWindow, rows: int) -> dict:
    """The window's snapshot as a dict, reduced to what is shown. rows: sampled from window and reference."""
    with quiet():
        return _reduced(_run(shown, rows))


@contextmanager
def quiet() -> Iterator[None]:
    """Switch off telemetry, which evidently reads at import and at each event, and SciPy's warnings."""
    import warnings

    os.environ["DO_NOT_TRACK"] = "1"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _run(shown: MeasuredWindow, rows: int) -> dict:
    """Evidently's own snapshot as a dict."""
    import pandas as pd
    from evidently import DataDefinition, Dataset, Report
    from evidently.presets import DataDriftPreset

    now, then = compared_columns(shown.window_table, shown.reference_table, shown.classes, rows)
    names = [name for name in now if name != "prediction"]
    definition = DataDefinition(
        numerical_columns=names, categorical_columns=["prediction"] if "prediction" in now else []
    )
    # constant, not per column: a threshold is part of a series' name on the dashboard
    threshold = FALSE_ALARMS / (len(NUMBERS) + DIRECTIONS + 1)
    metrics: list = [_metric()(measure=name, value=ratio) for name, ratio in ratios(shown.measures.findings)]
    if now:
        preset = DataDriftPreset(
            num_method="ks", cat_method="chisquare", num_threshold=threshold, cat_threshold=threshold
        )
        metrics.append(preset)
    window, outcome = shown.measures.window, shown.decision.outcome
    report = Report(
        metrics,
        metadata={"decision": outcome, "model": clean(window.version), "window": clean(window.id)},
        tags=[outcome],
    )

    def dataset(side: dict[str, np.ndarray]) -> Dataset:
        frame = pd.DataFrame({name: pd.Series(values) for name, values in side.items()})  # gaps become NaN
        return Dataset.from_pandas(frame if side else pd.DataFrame({"rows": [window.rows]}), data_definition=definition)

    # UTC without a zone: the UI compares with such times and shows them unchanged
    stamp = window.end.astimezone(UTC).replace(tzinfo=None)
    run = report.run(dataset(now), dataset(then), timestamp=stamp, name=f"{outcome}: {clean(window.id)}")
    return json.loads(run.dumps())


def compared_columns(
    window_table: pa.Table, reference_table: pa.Table, classes: Sequence[str], rows: int
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """(window, reference): name -> values without gaps, at most `rows` each.

    Only names with values on both sides.
    """
    window = _sample(window_table.filter(pc.is_valid(window_table["prediction"])), rows)
    reference = _sample(reference_table, rows)
    now, then = ({name: numbers(table, name) for name in NUMBERS} for table in (window, reference))
    sides = directions(lists(window, "features"), lists(reference, "features"))
    for number in range(sides[0].shape[1]):
        now[f"embedding {number + 1}"], then[f"embedding {number + 1}"] = (side[:, number] for side in sides)
    names = {label: clean(label) for label in classes}
    for side, table in ((now, window), (then, reference)):
        said = table["prediction"].drop_null().to_pylist()
        side["prediction"] = np.array([_label(value, names) for value in said], object)
    both = [name for name in now if len(now[name]) and len(then.get(name, ()))]
    return {name: now[name] for name in both}, {name: then[name] for name in both}


def _sample(table: pa.Table, rows: int) -> pa.Table:
    """Up to `rows` rows, always the same ones."""
    if table.num_rows <= rows:
        return table
    return table.take(np.sort(np.random.default_rng(0).choice(table.num_rows, rows, replace=False)))


def _label(value: Any, names: dict[str, str]) -> str:
    """A prediction in words; multi-label joins the labels."""
    if isinstance(value, str):
        return names.get(value) or clean(value)
    return clean(" + ".join(names.get(label) or clean(label) for label in value) or "(none)")


def ratios(findings: Sequence[Finding]) -> list[tuple[str, float]]:
    """(name, value relative to its threshold) of the judged findings; above 1 is drift."""
    return [
        (clean(finding.name), finding.value / finding.threshold)
        for finding in findings
        if finding.status != "info" and finding.value is not None and finding.threshold and np.isfinite(finding.value)
    ]


def _metric() -> type:
    """The metric class for one of Evergreen's measures, created once: Evidently registers each class."""
    if _MADE:
        return _MADE[0]
    from evidently.core.metric_types import SingleValueCalculation, SingleValueMetric

    class EvergreenMeasure(SingleValueMetric):
        """One of Evergreen's measures relative to its threshold, as a metric of Evidently."""

        measure: str
        value: float

    class EvergreenMeasureCalculation(SingleValueCalculation[EvergreenMeasure]):
        def calculate(self, context, current_data, reference_data):
            return self.result(self.metric.value)

        def display_name(self) -> str:
            return self.metric.measure + RATIO_TITLE

        def to_metric_config(self):
            config = super().to_metric_config()
            config.params.pop("value", None)  # parameters name a series, so the value must not be one
            return config

    _MADE.append(EvergreenMeasure)
    return EvergreenMeasure


_MADE: list[type] = []


def clean(text: str) -> str:
    """`text`, short, without characters that have a meaning in HTML, scripts or text direction."""
    kept = "".join(" " if letter in "<>&\"'`\\" else letter for letter in text)
    return one_line(single_spaced(kept), LETTERS) or "(no name)"


def _reduced(snapshot: dict) -> dict:
    """`snapshot` without what is never shown.

    That is the metrics' second copy of the widgets, plot templates, plots over row numbers (rows are a random sample)
    and digits beyond DIGITS.
    """
    for result in snapshot["metric_results"].values():
        result["widget"] = []
    for widget in snapshot["widgets"]:
        if widget["type"] == "big_table":
            _drop_row_plots(widget)
        elif str(widget["title"]).endswith(RATIO_TITLE):
            widget["size"] = 1  # two in a row
    return _rounded(snapshot)


def without_plots(snapshot: dict, note: str) -> dict | None:
    """`snapshot` with its values and the text `note` instead of plots; None if it has no plots."""
    if not any(widget["type"] == "big_table" for widget in snapshot["widgets"]):
        return None
    kept = [widget for widget in snapshot["widgets"] if widget["type"] == "counter"]
    label = {"value": "", "label": note}
    last = [
        {**widget, "size": 2, "title": "", "params": {"counters": [label]}, "id": f"{widget['id']}-old"}
        for widget in kept[-1:]
    ]
    return {**snapshot, "widgets": [*kept, *last]}


def _drop_row_plots(table: dict) -> None:
    """Remove the plots over row numbers from the table of columns."""
    dropped = set()
    for row in table["params"]["data"]:
        parts = row["details"]["parts"]
        dropped |= {part["id"] for part in parts if part["title"] == "DATA DRIFT"}
        row["details"]["parts"] = [part for part in parts if part["id"] not in dropped]
    table["additionalGraphs"] = [graph for graph in table["additionalGraphs"] if graph["id"] not in dropped]


def _rounded(value: Any) -> Any:
    """`value` with DIGITS digits and without plot templates."""
    if isinstance(value, dict):
        return {name: _rounded(part) for name, part in value.items() if name != "template"}
    if isinstance(value, list):
        return [_rounded(part) for part in value]
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if np.isfinite(value) else None
    return value
