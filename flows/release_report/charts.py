"""Computes the coordinates of the release report's charts, in percent or in units of an SVG viewBox.

Pure functions of numbers; the template only places the shapes. Class names are passed through: the template escapes
them.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from tasks.common.checks import Check
from tasks.inference.thresholds import confidence
from tasks.scoring import metrics, selective
from tasks.stages.evaluate.figures import Results

SIDE = 300  # width and height of a square chart, in viewBox units
NAMED = 5  # classes with a colour of their own in a precision-recall chart
GRID = np.linspace(0, 1, 101)
POINTS = 200  # of a curve
CELLS = 20  # classes of a confusion table


def forest(checks: Sequence[Check]) -> list[dict]:
    """One picture per check: differences share one axis around 0, each bound has its own bar.

    Kind "floor": low, width, value and bound in percent of 0..1 (of the largest number, if that is more than 1).
    Kind "difference": low, width, value, bound in percent of the axis, zero at 50; `limit` is half the axis. Kind
    "bound": fill and mark in percent. Kind "fact": nothing to draw.
    """
    compared = [check for check in checks if check.low is not None and check.value is not None and not check.is_floor]
    reach = [abs(number) for check in compared for number in (check.value, check.bound or 0.0)]
    limit = max(0.03, *reach, 0.0) * 1.25 if reach else 0.03
    limit = max(limit, min(float(np.median([check.high - check.low for check in compared])), 0.5) if compared else 0)

    def place(value: float) -> float:
        return round(float(np.clip(50 + 50 * value / limit, 0, 100)), 2)

    rows = []
    for check in checks:
        if check.is_floor and check.low is not None and check.high is not None and check.bound is not None:
            top = max(1.0, check.high, check.bound)
            low, high, value, bound = (
                round(100 * n / top, 2) for n in (check.low, check.high, check.value, check.bound)
            )
            width = max(0.6, round(high - low, 2))
            rows.append({"kind": "floor", "low": low, "width": width, "value": value, "bound": bound})
        elif check.low is not None and check.high is not None and check.value is not None:
            low, high = place(check.low), place(check.high)
            rows.append(
                {
                    "kind": "difference",
                    "limit": limit,
                    "low": low,
                    "width": max(0.6, round(high - low, 2)),
                    "value": place(check.value),
                    "bound": None if check.bound is None else place(check.bound),
                    "cut_low": check.low < -limit,
                    "cut_high": check.high > limit,
                }
            )
        elif check.value is not None and check.bound:
            top = 1.25 * max(check.value, check.bound)
            rows.append(
                {
                    "kind": "bound",
                    "fill": round(100 * max(0.0, check.value) / top, 2),
                    "mark": round(100 * check.bound / top, 2),
                }
            )
        else:
            rows.append({"kind": "fact"})
    return rows


def reliability(known: Results) -> dict:
    """The reliability diagram: accuracy against confidence, with 95 % intervals per bin and a histogram of confidence.

    Units: SIDE wide and high, y downwards.
    """
    bins = metrics.reliability(known.probabilities, known.targets)
    spread = 1.96 * np.sqrt(bins.accuracy * (1 - bins.accuracy) / bins.count)
    points = [
        {"x": _x(sure), "y": _y(came), "top": _y(min(1, came + luck)), "bottom": _y(max(0, came - luck)), "n": int(n)}
        for sure, came, luck, n in zip(bins.confidence, bins.accuracy, spread, bins.count, strict=True)
    ]
    confidence, _ = metrics.events(known.probabilities, known.targets)
    counts, _ = np.histogram(confidence, bins=20, range=(0, 1))
    bars = [
        {"x": round(SIDE * place / 20, 1), "height": round(48 * float(count) / max(1, counts.max()), 1)}
        for place, count in enumerate(counts)
    ]
    return {"points": points, "line": _line(bins.confidence, bins.accuracy), "bars": bars}


def calibrated(about: dict) -> dict | None:
    """How the model's probabilities were calibrated: a sentence, and the line of the reliability diagram before it.

    about: bundle.json; None for a model of an older Evergreen.
    """
    evaluated, how = about["metrics"]["evaluate"], about["metrics"]["calibrate"].get("scaling")
    before = evaluated.get("uncalibrated")
    if not how or not before:
        return None
    after = evaluated["test"]
    said = {
        "none": "Nothing: the network is calibrated already, or too few images show otherwise",
        "temperature": "One temperature for all classes",
        "classwise": "A temperature, and a sharpness and a frequency of each class",
    }[how["method"]]
    said += f" ({how['why']}). On the test set, log loss {before['log_loss']:.3f} before, {after['log_loss']:.3f} after"
    if before["debiased_ece"] is not None:
        errors = (100 * one["debiased_ece"] for one in (before, after))
        said += ", calibration error {:.1f} % before, {:.1f} % after".format(*errors)
    bins = before["reliability"]
    return {"line": _line(np.array(bins["confidence"]), np.array(bins["accuracy"])), "sentence": f"{said}."}


def answered_alone(known: Results, before: Results | None, people: Mapping[str, dict] | None) -> dict:
    """Accuracy of what the model answers alone against the share of the images that it answers, surest first.

    people: of metrics/evaluate.json, None for a model of an older Evergreen. The vertical axis begins below the lowest
    accuracy: `ticks` are its (y, percent). `marks` are where the wanted accuracies are reached, each with a sentence.
    """
    sides = [known] + ([before] if before else [])
    curves = [selective.curve(one.right, confidence(one.probabilities, one.rule)) for one in sides]
    shown = [_thinned(one, max(5, len(known.targets) // 50) / len(known.targets)) for one in curves]
    bottom = min(0.9, np.floor(10 * min(accuracy.min() for _, accuracy in shown)) / 10)

    def line(share: np.ndarray, accuracy: np.ndarray) -> str:
        return _line(share, (accuracy - bottom) / (1 - bottom))

    ticks = [{"y": _y(step / 4), "text": f"{100 * (bottom + (1 - bottom) * step / 4):.3g}"} for step in range(5)]
    marks = []
    for name, one in (people or {}).items():
        wanted = int(name.removeprefix("at_"))
        height = (wanted / 100 - bottom) / (1 - bottom)
        marks.append(
            {"wanted": wanted, "x": _x(1 - one["share"]), "y": _y(height), **one, "text": _to_people(wanted, one)}
        )
    return {"line": line(*shown[0]), "old": line(*shown[1]) if before else None, "ticks": ticks, "marks": marks}


def _to_people(wanted: int, one: Mapping) -> str:
    """How much goes to people for `wanted` percent right; one: of `people` in metrics/evaluate.json."""
    if one["bound"] is None:
        return f"{wanted} % right: not reached, even by the answers it is surest of."
    if not one["share"]:
        return f"{wanted} % right: nothing has to go to people."
    share, low, high = (f"{100 * one[key]:.0f}" for key in ("share", "low", "high"))
    return f"To be {wanted} % right, {share} % go to people ({low} to {high})."


def _thinned(found: selective.Curve, least: float) -> tuple[np.ndarray, np.ndarray]:
    """(share, accuracy) at up to POINTS shares of at least `least`: the accuracy of the first few answers jumps."""
    rows = np.flatnonzero(found.share >= min(least, found.share[-1]))
    rows = rows[np.unique(np.linspace(0, len(rows) - 1, POINTS).astype(int))]
    return found.share[rows], found.accuracy[rows]


def precision_recall(known: Results) -> dict:
    """The mean precision-recall curve over classes, and the NAMED classes of lowest average precision."""
    truth = metrics.one_hot(known.targets, len(known.classes))
    average = metrics.average_precision(known.targets, known.probabilities)
    there = np.flatnonzero(truth.any(axis=0))
    envelopes = {}
    for k in there:
        precision, recall, _ = metrics.precision_recall(truth[:, k], known.probabilities[:, k])
        best = np.maximum.accumulate(precision[::-1])[::-1]  # the best precision at this recall or more
        envelopes[k] = best[np.minimum(np.searchsorted(recall, GRID), len(recall) - 1)]
    lowest = sorted(there, key=lambda k: average[k])[:NAMED]
    return {
        "mean": _line(GRID, np.mean([envelopes[k] for k in there], axis=0)),
        "average": float(np.nanmean(average)),
        "classes": [
            {"name": known.classes[k], "average": float(average[k]), "line": _line(GRID, envelopes[k])} for k in lowest
        ],
    }


def confusion(known: Results) -> dict:
    """{"names", "rows": [{"name", "n", "cells": [{"share", "n", "own"}]}], "left_out"}: the confusion table.

    Rows are given labels, columns predicted ones, shares are of a row. With many classes, only the CELLS classes with
    the most errors are shown.
    """
    matrix = metrics.confusion(known.targets, known.predicted, len(known.classes))
    errors = matrix.sum(axis=0) + matrix.sum(axis=1) - 2 * np.diag(matrix)
    shown = np.sort(np.argsort(-errors, kind="stable")[:CELLS])
    rows = []
    for k in shown:
        total = int(matrix[k].sum())
        cells = [
            {"share": round(float(matrix[k, j]) / max(1, total), 3), "n": int(matrix[k, j]), "own": bool(j == k)}
            for j in shown
        ]
        rows.append({"name": known.classes[k], "n": total, "cells": cells})
    return {"names": [known.classes[k] for k in shown], "rows": rows, "left_out": len(known.classes) - len(shown)}


def _x(value: float) -> float:
    return round(SIDE * float(value), 1)


def _y(value: float) -> float:
    return round(SIDE * (1 - float(value)), 1)


def _line(x: np.ndarray, y: np.ndarray) -> str:
    """`points` of an SVG polyline."""
    return " ".join(f"{_x(one)},{_y(other)}" for one, other in zip(x, y, strict=True))
