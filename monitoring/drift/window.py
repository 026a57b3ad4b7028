"""Measure one window of the production log against the model's own reference: numbers, no decision.

    measures = measure_window(table, window, load(bundle_dir, cache_dir("drift", root)), params.drift)

Each measure is one Finding. A measure that raises becomes a finding with status "error"; the others are not affected.
The thresholds of all judged measures hold together (monitoring.drift.calibration): of windows without drift, a share
of drift.false_alarm_rate shows any drift at all, if rows are independent. Rows of one session are not: docs/drift.md.

N rows of the window, M of the reference, K classes. At most M rows of a window are compared. More rows could detect the
chance deviations of the reference itself, which every window shows.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from monitoring.contracts import Finding, Measures, Window
from monitoring.drift import calibration, examples, missing, reported_measures, wording
from monitoring.drift.arrays import CATEGORIES, NO_LABEL, NUMBERS, SampleArrays, log_arrays
from monitoring.drift.judged_measures import LEAST, JudgedMeasures, isolated
from monitoring.drift.reference import Reference
from monitoring.log.schema import log_schema
from tasks.common.params import DriftParams


def measure_window(
    table: pa.Table, window: Window, reference: Reference, params: DriftParams, labelled: pa.Table | None = None
) -> Measures:
    """All measures of the window. The same arguments give the same measures.

    table: rows of log_schema (thumbnails and images are not used); labelled: the window's answers that have a late
    label (monitoring.live.labels).
    """
    rng = np.random.default_rng([params.seed, len(table)])
    logged = len(table)
    table, repeats = _without_repeats(_all_columns(table, reference.task))
    answers = round(max(window.rows, logged) * len(table) / max(logged, 1))
    known = reported_measures.true_accuracy(table, labelled, answers)  # on all rows: labels are few
    limit = min(params.max_window, max(len(reference), 2 * LEAST))
    if len(table) > limit:
        table = table.take(np.sort(rng.permutation(len(table))[:limit]))
    readable = table.filter(pc.is_null(table["reason"]))
    findings = [
        Finding(name="repeats", status="info", value=repeats / max(logged, 1), detail="repeats of an image, left out")
    ]
    findings += isolated("sources", lambda: _sources(table))
    arrays = log_arrays(readable, reference.classes, reference.arrays.features.shape[1], reference.task)
    findings += _missing(len(table), len(readable), arrays, reference, params)
    judged = JudgedMeasures(arrays, reference, params)
    findings += judged.findings()
    findings += known + reported_measures.findings(arrays, reference, rng)
    names = [*reference.classes, *([NO_LABEL] if reference.task == "multilabel" else [])]
    return Measures(
        window=window.model_copy(update={"used": len(table)}),
        findings=findings,
        mix=_mix(arrays.predicted, names),
        reference_mix=_mix(reference.arrays.predicted, names),
        moved=examples.choose_moved(arrays, judged.scores),
        typical=examples.choose_typical(reference),
    )


def _all_columns(table: pa.Table, task: str) -> pa.Table:
    """`table` with all columns of log_schema; columns that it lacks are null."""
    for field in log_schema(task):
        if field.name not in table.column_names:
            table = table.append_column(field, pa.nulls(len(table), field.type))
    return table


def _without_repeats(table: pa.Table) -> tuple[pa.Table, int]:
    """The first row of each image, and the number of other rows.

    An image that was sent a thousand times is one sample.
    """
    _, first = np.unique(np.array(table["id"].fill_null("").to_pylist(), str), return_index=True)
    return table.take(np.sort(first)), len(table) - len(first)


def _sources(table: pa.Table) -> Finding | None:
    """Number of sources: rows of one source are alike, so a window of few sources drifts more easily."""
    counts = sorted(table["source"].drop_null().value_counts().field("counts").to_pylist())
    if not counts:
        return None
    detail = f"cameras, sites or sessions; the largest sent {wording.percent(counts[-1] / len(table))} of the images"
    return Finding(name="sources", status="info", value=len(counts), detail=detail)


def _missing(
    rows: int, readable: int, arrays: SampleArrays, reference: Reference, params: DriftParams
) -> list[Finding]:
    if not rows:
        return []
    names = [name for name in arrays.missing if name not in NUMBERS and name not in CATEGORIES]
    level = params.false_alarm_rate * (1 - calibration.JUDGED) / (len(arrays.missing) + 1)
    unread = rows - readable
    found = isolated(
        "missing.image",
        lambda: missing.judge_missing(
            "missing.image", unread, rows, 0, len(reference), level,
            f"{wording.percent(unread / rows)} of images could not be read",
        ),
    )  # fmt: skip
    if not readable:
        return found
    measures = max((*NUMBERS, *CATEGORIES), key=lambda name: sum(arrays.missing[name]))  # missing together: judge one
    for name in (*names, measures):

        def judge(name: str = name) -> Finding:
            (null, odd), before = arrays.missing[name], sum(reference.arrays.missing[name])
            detail = f"{name} is missing in {wording.percent((null + odd) / readable)} of rows"
            if odd:
                detail += f", {wording.percent(odd / readable)} NaN or infinite"
            return missing.judge_missing(f"missing.{name}", null + odd, readable, before, len(reference), level, detail)

        found += isolated(f"missing.{name}", judge)
    return found


def _mix(predicted: np.ndarray, names: list[str]) -> dict[str, float]:
    total = predicted.sum()
    return (
        {name: float(count / total) for name, count in zip(names, predicted.sum(axis=0), strict=True)} if total else {}
    )
