"""Measure one window of the production log against the model's own reference: numbers, no decision.

    measures = measure(table, window, load(bundle_dir, cache_dir("drift", root)), params.drift)

Every measure is a Finding of its own, and none can cost another: what raises becomes a finding with status "error".
The thresholds of all judged measures hold together (monitoring.drift.calibration): a share of drift.false_alarm_rate of
windows without drift shows any drift at all, where rows are independent. Rows of one session are not: docs/drift.md.

N rows of the window, M of the reference, K classes. At most M rows of a window are compared: more could tell it from
the reference's own chance deviations, which every window shares.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from monitoring.contracts import Finding, Measures, Window
from monitoring.drift import calibration, examples, missing, reported_measures, wording
from monitoring.drift.arrays import CATEGORIES, NO_LABEL, NUMBERS, Side, of_log
from monitoring.drift.judged_measures import LEAST, Compared, isolated
from monitoring.drift.reference import Reference
from monitoring.log.schema import log_schema
from tasks.common.params import DriftParams


def measure(
    table: pa.Table, window: Window, reference: Reference, params: DriftParams, labels: pa.Table | None = None
) -> Measures:
    """table: rows of log_schema (thumbnails and images are not looked at); labels: late labels, id and label, of this
    window's samples or of others too. The same arguments give the same measures."""
    rng = np.random.default_rng([params.seed, len(table)])
    logged = len(table)
    table, repeats = _once(_whole(table, reference.task))
    known = reported_measures.true_accuracy(table, labels)  # of all rows: labels are few
    limit = min(params.max_window, max(len(reference), 2 * LEAST))
    if len(table) > limit:
        table = table.take(np.sort(rng.permutation(len(table))[:limit]))
    readable = table.filter(pc.is_null(table["reason"]))
    findings = [
        Finding(name="repeats", status="info", value=repeats / max(logged, 1), detail="the same image again, left out")
    ]
    findings += isolated("sources", lambda: _sources(table))
    side = of_log(readable, reference.classes, reference.side.features.shape[1], reference.task)
    findings += _missing(len(table), len(readable), side, reference, params)
    compared = Compared(side, reference, params)
    findings += compared.findings()
    findings += known + reported_measures.findings(side, reference, rng)
    names = [*reference.classes, *([NO_LABEL] if reference.task == "multilabel" else [])]
    return Measures(
        window=window.model_copy(update={"used": len(table)}),
        findings=findings,
        mix=_mix(side.predicted, names),
        reference_mix=_mix(reference.side.predicted, names),
        moved=examples.moved(side, compared.scores),
        typical=examples.typical(reference),
    )


def _whole(table: pa.Table, task: str) -> pa.Table:
    """`table` with every column of log_schema; what it lacks is missing in every row."""
    for field in log_schema(task):
        if field.name not in table.column_names:
            table = table.append_column(field, pa.nulls(len(table), field.type))
    return table


def _once(table: pa.Table) -> tuple[pa.Table, int]:
    """The first row of every image, and how many others there were: one image sent a thousand times is one sample."""
    _, first = np.unique(np.array(table["id"].fill_null("").to_pylist(), str), return_index=True)
    return table.take(np.sort(first)), len(table) - len(first)


def _sources(table: pa.Table) -> Finding | None:
    """Rows of one source are alike: a window of few of them drifts more easily than thresholds can know."""
    counts = sorted(table["source"].drop_null().value_counts().field("counts").to_pylist())
    if not counts:
        return None
    detail = f"cameras, sites or sessions; the largest sent {wording.percent(counts[-1] / len(table))} of the images"
    return Finding(name="sources", status="info", value=len(counts), detail=detail)


def _missing(rows: int, readable: int, side: Side, reference: Reference, params: DriftParams) -> list[Finding]:
    if not rows:
        return []
    names = [name for name in side.missing if name not in NUMBERS and name not in CATEGORIES]
    level = params.false_alarm_rate * (1 - calibration.JUDGED) / (len(side.missing) + 1)
    unread = rows - readable
    found = isolated(
        "missing.image",
        lambda: missing.judge(
            "missing.image", unread, rows, 0, len(reference), level,
            f"{wording.percent(unread / rows)} of images could not be read",
        ),
    )  # fmt: skip
    if not readable:
        return found
    measures = max((*NUMBERS, *CATEGORIES), key=lambda name: sum(side.missing[name]))  # they are missing together
    for name in (*names, measures):

        def judge(name: str = name) -> Finding:
            (null, odd), before = side.missing[name], sum(reference.side.missing[name])
            detail = f"{name} is missing in {wording.percent((null + odd) / readable)} of rows"
            if odd:
                detail += f", {wording.percent(odd / readable)} NaN or infinite"
            return missing.judge(f"missing.{name}", null + odd, readable, before, len(reference), level, detail)

        found += isolated(f"missing.{name}", judge)
    return found


def _mix(predicted: np.ndarray, names: list[str]) -> dict[str, float]:
    total = predicted.sum()
    return (
        {name: float(count / total) for name, count in zip(names, predicted.sum(axis=0), strict=True)} if total else {}
    )
