"""Figures and names as a person reads them, and the key figures of the first screen."""

import json
from collections.abc import Sequence
from typing import Any

from flows.release_report.changes import at
from flows.release_report.facts import Row
from monitoring.plain_names import plain_name

CHECKS = {
    "test.debiased_ece": "calibration error on the test set",
    "parity.max_difference": "exported model answers as the trained one",
    "bundle.max_difference": "published model gives the answers that were judged",
    "latency_ms.p99": "milliseconds an image, 99th percentile",
    "size_mb": "size of the model, MB",
    "class_collapse": "no class is given up",
    "hard_set": "hard set",
    "few_shot.recall": "rare classes together: recall",
}


def key_figures(rows: Sequence[Row], about: dict, old: dict | None) -> list[dict]:
    """Four to six figures of the first screen: name, value, unit, note, change, trend."""
    by_group = {}
    for row in rows:
        by_group.setdefault(row.group, row)
    chosen = [by_group["test set"]]
    chosen += [by_group[name] for name in ("few-shot classes", "hard set", "newest batch") if name in by_group][:2]
    chosen += [row for row in rows if row.name == "calibration error"]
    figures = [
        {
            "name": row.name if row.group == "test set" else f"{row.group}: {row.name}",
            "value": f"{100 * row.new:.1f}" if row.new is not None else "–",
            "unit": "%" if row.new is not None else "",
            "change": None if row.change is None else f"{points(row.change)} points",
            "up": (row.change or 0) >= 0,
            "trend": row.trend,
            "note": f"{row.n:,} images" if row.old is None else f"was {100 * row.old:.1f} %",
        }
        for row in chosen
    ]
    for name, path, unit in (
        ("answers left to people", ("metrics", "calibrate", "to_review"), "%"),
        ("training images", ("data", "images", "train"), ""),
        ("time for one image", ("metrics", "evaluate", "latency_ms", "p50"), "ms"),
    ):
        found = [_number(at(one, path), unit) for one in (about, old or {})]
        if found[0] is not None:
            figures.append(_plain_figure(name, *found, unit))
    return figures[:6]


def _number(value: Any, unit: str) -> float | int | None:
    """A figure of bundle.json; images by class become their sum, shares become percent."""
    if isinstance(value, dict):
        return sum(value.values())
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return 100 * value if unit == "%" else value


def _plain_figure(name: str, new: float, old: float | None, unit: str) -> dict:
    """A figure that is neither good nor bad in itself: its arrow has no colour."""

    def shown(value: float, sign: str = "") -> str:
        return f"{value:{sign},}" if isinstance(value, int) else f"{value:{sign},.1f}".replace("-", "−")

    change = None if old is None else new - old
    points_or_unit = {"%": " points", "ms": " ms"}.get(unit, "")
    return {
        "name": name,
        "value": shown(new),
        "unit": unit,
        "change": None if not change else shown(change, "+") + points_or_unit,
        "up": (change or 0) >= 0,
        "trend": "unknown",
        "note": "" if old is None else f"was {shown(old)}" + (f" {unit}" if unit else ""),
    }


def figure(value: Any) -> str:
    """A value as a person reads it: "1,234", "0.1235", "–" for None."""
    if value is None:
        return "–"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list | bool) else str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"


def percent(value: float | None, digits: int = 1) -> str:
    """A share in percent, without the sign."""
    return "–" if value is None else f"{100 * value:.{digits}f}"


def points(value: float | None) -> str:
    """A difference of shares in points of 100, with sign; zero has none."""
    if value is None:
        return "–"
    return f"{100 * value:+.1f}".replace("-0.0", "0.0").replace("+0.0", "0.0").replace("-", "−")


def words(name: str) -> str:
    """A check's name for people: "class.Bag.recall" -> "class Bag: recall"."""
    if name in CHECKS:
        return CHECKS[name]
    if name.startswith(("floor.", "worst_source.", "hard.images")):
        return plain_name(name)
    head, _, figure_name = name.rpartition(".")
    if not head:
        return name.replace("_", " ")
    for start, shown in (("class.", "class "), ("corruptions.", "under "), ("slice:", "slice ")):
        if head.startswith(start):
            head = shown + head.removeprefix(start)
    return f"{head}: {figure_name.replace('_', ' ')}"
