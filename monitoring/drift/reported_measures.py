"""Measures that are reported but not judged: accuracy and the mix of true classes.

N rows of the window, M of the reference, K classes.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from monitoring.contracts import Finding
from monitoring.drift import accuracy, label_shift, wording
from monitoring.drift.arrays import SampleArrays
from monitoring.drift.judged_measures import LEAST, finite, isolated, too_few
from monitoring.drift.reference import Reference
from monitoring.live.estimate import MOSTLY, live_accuracy
from monitoring.live.periods import numbers, rights


def findings(window: SampleArrays, reference: Reference, rng: np.random.Generator) -> list[Finding]:
    """Estimated accuracy, accuracy on the reference and, for multiclass models, the label shift."""
    found = isolated("accuracy.estimated", lambda: _estimated_accuracy(window, reference))
    found += isolated("accuracy.reference", lambda: _reference_accuracy(reference))
    if reference.task == "multiclass":
        found += isolated("label.shift", lambda: _label_shift(window, reference, rng))
    return found


def true_accuracy(table: pa.Table, labelled: pa.Table | None, answers: int) -> list[Finding]:
    """The accuracy by late labels; empty if no answer has a label.

    table: the window's rows, or a sample: id, confidence, prediction. labelled: of monitoring.live.labels. answers: of
    the window.
    """
    return [] if labelled is None else isolated("accuracy.true", lambda: _true_accuracy(table, labelled, answers))


def _true_accuracy(table: pa.Table, labelled: pa.Table, answers: int) -> Finding | None:
    confidence = numbers(table.filter(pc.is_valid(table["prediction"]))["confidence"])
    answers = round(answers * len(confidence) / max(len(table), 1))
    found = live_accuracy(
        confidence, numbers(labelled["confidence"]), rights(labelled), numbers(labelled["chance"], np.nan), answers
    )
    if found is not None:
        detail = f"estimated from {found.used} labels that were asked for at random, of {found.answers} answers"
        if found.labels >= MOSTLY * found.answers:
            detail = f"{found.labels} of {found.answers} answers have a label"
        return Finding(
            name="accuracy.true", status="info", value=found.value, low=found.low, high=found.high, detail=detail
        )
    given = rights(labelled.filter(pc.invert(labelled["hard"])))
    if not len(given):
        return None
    value, low, high = accuracy.measure_accuracy(int(given.sum()), len(given))
    detail = f"{int(given.sum())} of {len(given)} answers with a late label are right"
    if left := len(labelled) - len(given):
        detail += f"; {left} that were picked for being hard do not count"
    return Finding(name="accuracy.true", status="info", value=value, low=low, high=high, detail=detail)


def _estimated_accuracy(window: SampleArrays, reference: Reference) -> Finding | None:
    confidence, correct = reference.arrays.numbers["confidence"], reference.correct
    known = np.isfinite(confidence) & np.isfinite(correct)
    if known.sum() < LEAST:
        return None
    now = finite(window.numbers["confidence"], "confidence")
    value, low, high = accuracy.estimate_accuracy(now, confidence[known], correct[known])
    detail = f"from the model's confidence, without labels; {correct[known].mean():.2f} on the reference"
    return Finding(name="accuracy.estimated", status="info", value=value, low=low, high=high, detail=detail)


def _reference_accuracy(reference: Reference) -> Finding | None:
    correct = reference.correct[np.isfinite(reference.correct)]
    if not len(correct):
        return None
    value, low, high = accuracy.measure_accuracy(int(correct.sum()), len(correct))
    detail = f"on {len(correct)} labelled samples of the reference"
    return Finding(name="accuracy.reference", status="info", value=value, low=low, high=high, detail=detail)


def _label_shift(window: SampleArrays, reference: Reference, rng: np.random.Generator) -> Finding | None:
    rows = np.isfinite(window.probabilities).all(axis=1)
    known = reference.labels.any(axis=1) & np.isfinite(reference.arrays.probabilities).all(axis=1)
    if len(reference.classes) > label_shift.MOST:
        detail = f"not estimated for {len(reference.classes)} classes, {label_shift.MOST} at most"
        return Finding(name="label.shift", status="info", detail=detail)
    if rows.sum() < LEAST or known.sum() < LEAST:
        return too_few("label.shift", int(rows.sum()), int(known.sum()))
    new, old, value, low, high = label_shift.estimate_shift(
        window.probabilities[rows], reference.arrays.probabilities[known], reference.labels[known], rng
    )
    detail = f"classes estimated from the answers: {wording.describe_shares(reference.classes, new, old, most=3)}"
    return Finding(name="label.shift", status="info", value=value, low=low, high=high, detail=detail)
