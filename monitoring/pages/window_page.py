"""The page of one window: what was decided, why, and which images caused it.

It is for someone who was just alerted. N rows, K classes.
"""

import base64
import io
import re
from collections.abc import Iterator, Sequence
from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from markupsafe import Markup

from monitoring.contracts import DriftDecision, Finding, Measures
from monitoring.live.periods import Period, period_id, week_of
from monitoring.pages import live, plots
from monitoring.pages.columns import MeasuredWindow, directions, lists, numbers
from monitoring.pages.render import OUTCOMES, render, render_part, when
from monitoring.plain_names import plain_name

TREND = 60  # windows shown
PLOTS = 8  # distributions shown: those that moved most
MIX = 12  # classes shown: those whose share moved most
ACCURACY = re.compile("(<!-- accuracy -->).*?(<!-- end of accuracy -->)", re.DOTALL)  # what late labels change


def window_page(
    shown: MeasuredWindow,
    history: Sequence[tuple[Measures, DriftDecision]],
    done: Sequence[str] = (),
    images: int = 12,
    week: Period | None = None,
) -> str:
    """The page's HTML.

    history: earlier windows, in any order; done: sentences about what was started; week: the model's, with labels.
    """
    measures, decision = shown.measures, shown.decision
    trend = _trend(measures, decision, history)
    return render(
        "window.html",
        window=measures.window, measures=measures, decision=decision, outcomes=OUTCOMES, done=done,
        moved=_moved(shown.window_table, measures.moved[:images]),
        typical=_typical(shown.reference_table, measures.typical[:images]),
        distributions=_distributions(shown), mix=_mix(measures), groups=_groups(measures, trend),
        accuracy=accuracy_cards(measures), week=live.week(week),
        week_id=period_id(week_of(measures.window.start), measures.window.bundle),
        timeline=plots.timeline(_points(measures.window.id, trend)), windows=len(trend),
    )  # fmt: skip


def accuracy_cards(measures: Measures, revised: datetime | None = None) -> Markup:
    """The window's accuracies. revised: when it was measured again, because labels had come."""
    found = [finding for finding in measures.findings if finding.name.startswith("accuracy")]
    at = f"{revised:%Y-%m-%d %H:%M}" if revised else ""
    return render_part("accuracy.html", accuracy=found, revised=at)


def with_accuracy(page: str, measures: Measures, revised: datetime) -> str:
    """`page` with the window's accuracies replaced; unchanged if it is of an older version."""
    return ACCURACY.sub(lambda found: f"{found[1]}{accuracy_cards(measures, revised)}{found[2]}", page, count=1)


def drift_ratio(finding: Finding) -> float | None:
    """The finding's value relative to its threshold; None for accuracies, where low values are bad."""
    if finding.status == "info" or finding.value is None or not finding.threshold:
        return None
    ratio = finding.value / finding.threshold
    return ratio if np.isfinite(ratio) and ratio >= 0 and not finding.name.startswith("accuracy") else None


def _trend(measures: Measures, decision: DriftDecision, history: Sequence) -> list[tuple[Measures, DriftDecision]]:
    """The last TREND windows up to this one, oldest first."""
    known = {past.window.id: (past, decided) for past, decided in history if past.window.start < measures.window.start}
    return [*(known[key] for key in sorted(known)[-(TREND - 1) :]), (measures, decision)]


def _points(current: str, trend: Sequence[tuple[Measures, DriftDecision]]) -> list[dict]:
    points = []
    for past, decided in trend:
        known = [(ratio, finding.name) for finding in past.findings if (ratio := drift_ratio(finding)) is not None]
        ratio, worst = max(known, default=(None, ""))
        text = f"{when(past.window.id)}: {OUTCOMES[decided.outcome][0]}"
        if ratio is not None:
            text += f", {plain_name(worst)} at {ratio:.2f} of its threshold"
        points.append({"ratio": ratio, "outcome": decided.outcome, "title": text, "current": past.window.id == current})
    return points


def _groups(measures: Measures, trend: Sequence[tuple[Measures, DriftDecision]]) -> list[dict]:
    """The measures for the table, each with its history.

    Drifted and failed ones come first, the quiet ones separately.
    """
    past = [{finding.name: drift_ratio(finding) for finding in old.findings} for old, _ in trend]
    rows = [
        {
            "finding": finding,
            "ratio": drift_ratio(finding),
            "spark": plots.spark([old.get(finding.name) for old in past]) if drift_ratio(finding) is not None else "",
        }
        for finding in measures.findings
    ]
    rows.sort(key=lambda row: -(row["ratio"] or 0))
    loud = [row for row in rows if row["finding"].status in ("drifted", "expected", "error")]
    quiet = [row for row in rows if row["finding"].status == "ok"]
    info = [row for row in rows if row["finding"].status == "info"]
    return [
        {"title": "beyond their threshold or failed", "rows": loud, "open": True},
        {"title": "as in the reference", "rows": quiet, "open": len(loud) + len(quiet) <= 12},
        {"title": "reported, not judged", "rows": info, "open": False},
    ]


def _moved(table: pa.Table, ids: Sequence[str]) -> list[dict]:
    """The window's rows `ids`, in this order."""
    columns = ["id", "key", "path", "source", "prediction", "confidence", "ood", "thumbnail", "image"]
    return [
        {
            "names": [name for name in (row.get("key"), row.get("path"), row["id"][:12]) if name],
            "image": _picture(row["thumbnail"], row.get("image")),
            "label": _label(row["prediction"]),
            "confidence": row["confidence"],
            "ood": row["ood"],
            "source": row["source"],
        }
        for row in _rows(table, ids, columns)
    ]


def _typical(table: pa.Table, ids: Sequence[str]) -> list[dict]:
    """The reference's rows `ids`, with the model's answer, or the label where it has none."""
    return [
        {
            "image": _picture(row["thumbnail"], None),
            "label": _label(row["label"] if row["prediction"] is None else row["prediction"]),
            "confidence": row["confidence"],
            "ood": row["ood"],
            "source": None,
            "names": [],
        }
        for row in _rows(table, ids, ["id", "label", "prediction", "confidence", "ood", "thumbnail"])
    ]


def _rows(table: pa.Table, ids: Sequence[str], columns: Sequence[str]) -> list[dict]:
    """One dict for each of `ids` in the table; an id that was logged twice counts once.

    The table may lack columns: a window can be read without its full images.
    """
    wanted = table.select([column for column in columns if column in table.column_names]).filter(
        pc.is_in(table["id"], pa.array(ids, pa.string()))
    )
    by_id = {row["id"]: row for row in wanted.to_pylist()}
    return [by_id[key] for key in ids if key in by_id]


def _label(value: str | list[str] | None) -> str:
    if isinstance(value, list):
        return " + ".join(value) or "(none)"
    return value or "(none)"


def _picture(thumbnail: bytes | None, image: bytes | None) -> str | None:
    """A data URI of the thumbnail, or of the image made small; None if neither can be shown."""
    if thumbnail and thumbnail[:3] == b"\xff\xd8\xff":
        return "data:image/jpeg;base64," + base64.b64encode(thumbnail).decode()
    if not image:
        return None
    from tasks.dataset.decode import Undecodable, decode

    try:
        decoded = decode(image, 50_000_000)
    except Undecodable:
        return None
    decoded.thumbnail((64, 64))
    buffer = io.BytesIO()
    decoded.convert("RGB").save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _mix(measures: Measures) -> dict:
    """Shares of predicted classes, before and now, for the classes that moved most.

    They are ordered by their share in the reference.
    """
    names = sorted(set(measures.mix) | set(measures.reference_mix))
    rows = [(label, measures.reference_mix.get(label, 0.0), measures.mix.get(label, 0.0)) for label in names]
    shown = sorted(rows, key=lambda row: -abs(row[1] - row[2]))[:MIX]
    top = max((max(row[1:]) for row in shown), default=0) or 1
    return {"rows": sorted(shown, key=lambda row: (-row[1], row[0])), "top": top, "more": len(rows) - len(shown)}


def compared(shown: MeasuredWindow) -> Iterator[tuple[Finding, np.ndarray, np.ndarray]]:
    """Each measure that drifted, worst first, with the values in reference (M,) and window (N,) that it compares."""
    moved = [finding for finding in shown.measures.findings if finding.status in ("drifted", "expected")]
    for finding in sorted(moved, key=lambda f: -(drift_ratio(f) or 0)):
        sides = [
            _values(table, finding.name, shown.classes, shown.reference_table)
            for table in (shown.reference_table, shown.window_table)
        ]
        yield finding, *sides


def _distributions(shown: MeasuredWindow) -> list[dict]:
    """Distributions in reference and window of the measures that drifted, worst first."""
    found = []
    for finding, *sides in compared(shown):
        drawn = plots.distribution(*sides, f"{plain_name(finding.name)}: reference and this window")
        if drawn:
            medians = [float(np.median(side)) for side in sides]
            found.append({"finding": finding, "plot": drawn, "was": medians[0], "now": medians[1]})
    return found[:PLOTS]


def _values(table: pa.Table, measure: str, classes: Sequence[str], reference: pa.Table) -> np.ndarray:
    """(N,) finite values that a measure compares; empty if it compares more than one number."""
    if measure.startswith("missing."):
        return np.empty(0)
    last = measure.rpartition(".")[2]
    if last in table.column_names and pa.types.is_primitive(table[last].type):
        return numbers(table, last)
    if measure.startswith("embedding"):
        sides = directions(lists(table, "features"), lists(reference, "features"))
        return sides[0][:, 0] if sides[0].size else np.empty(0)
    probabilities = lists(table, "probabilities")
    if last in classes and probabilities.size:
        return probabilities[:, list(classes).index(last)]
    return np.empty(0)
