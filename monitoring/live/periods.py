"""How often one model's answers of a week were right: in all, per class and source.

A core on tables, without log or clock. N answers, L of them with a label, K classes.
"""

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import AwareDatetime

from monitoring.live.estimate import LiveAccuracy, interval, live_accuracy, stands_for
from tasks.common.checks import Frozen
from tasks.scoring.intervals import two_sided, wilson

WEEK = timedelta(days=7)
SOURCES = 30  # with the most labels
PAIRS = 60  # of classes in the confusion matrix, with the most labels
NO_SOURCE = ""


class Share(Frozen):
    """A share with its interval. Without random labels it is the labels' own share, and there is no interval."""

    labels: int
    value: float
    low: float | None = None
    high: float | None = None


class Confused(Share):
    """Of the answers whose true class is `label`, the share that was answered `prediction`."""

    label: str
    prediction: str


class Period(Frozen):
    """One model's answers of one week, and what their labels say. Shares without random labels are the labels' own."""

    start: AwareDatetime  # Monday 00:00 UTC
    version: str
    bundle: str
    answers: int
    labels: int
    right: int  # of the labels, however they were picked
    accuracy: LiveAccuracy | None  # None: no label has a known chance of being asked for
    given: Share | None = None  # then: the labels that were not picked for being hard, and their own share
    sources: dict[str, LiveAccuracy] = {}
    recalls: dict[str, Share] = {}  # true class -> share of its answers that are right
    confused: list[Confused] = []  # single-label models, right answers included

    @property
    def id(self) -> str:
        """Names the period in the journal."""
        return period_id(self.start, self.bundle)


def week_of(at: datetime) -> datetime:
    """The Monday, 00:00 UTC, on or before `at`."""
    day = at.replace(hour=0, minute=0, second=0, microsecond=0)
    return day - timedelta(days=day.weekday())


def period_id(start: datetime, bundle: str) -> str:
    """Names a model's week: "2026-11-23-0123456789ab"."""
    return f"{start:%Y-%m-%d}-{bundle[:12]}"


def measure_period(
    start: datetime, version: str, bundle: str, answers: pa.Table, labelled: pa.Table, total: int | None = None
) -> Period:
    """The model's week.

    answers: (N rows: source, confidence) of each image once, or a random sample of them. labelled: (L rows: source,
    confidence, prediction, label, chance, hard), chance null where the probability of being asked is unknown. total: N,
    if `answers` is a sample.
    """
    total = max(total or len(answers), len(labelled))
    right = rights(labelled)
    confidence, sure = numbers(answers["confidence"]), numbers(labelled["confidence"])
    chance = numbers(labelled["chance"], missing=np.nan)
    weights = weigh(confidence, sure, chance, total)
    return Period(
        start=start,
        version=version,
        bundle=bundle,
        answers=total,
        labels=len(right),
        right=int(right.sum()),
        accuracy=live_accuracy(confidence, sure, right, chance, total),
        given=_given(right[~np.array(labelled["hard"].to_pylist(), bool)]),
        sources=_sources(answers["source"], labelled["source"], confidence, sure, right, chance, total),
        recalls=recalls(_pairs(labelled), weights),
        confused=confusion(_pairs(labelled), weights),
    )


def weigh(confidence: np.ndarray, labelled: np.ndarray, chance: np.ndarray, answers: int) -> np.ndarray:
    """(L,) answers that each label stands for, 0 if its chance is unknown; all NaN if no chance is known."""
    used = chance > 0
    if not used.any() or not len(confidence):
        return np.full(len(chance), np.nan)
    weights = np.zeros(len(chance))
    weights[used] = stands_for(confidence, labelled[used], 1 / chance[used], answers)
    return weights


def recalls(pairs: Sequence[tuple], weights: np.ndarray) -> dict[str, Share]:
    """True class -> share of its answers that name it. pairs: (L,) of (prediction, label)."""
    rows: dict[str, list[tuple[int, bool]]] = defaultdict(list)
    for row, (answer, label) in enumerate(pairs):
        for name in _names(label):
            rows[name].append((row, name in _names(answer)))
    return {name: found for name in sorted(rows) if (found := _share(rows[name], weights))}


def confusion(pairs: Sequence[tuple], weights: np.ndarray) -> list[Confused]:
    """The pairs of true and answered class with the most labels; empty for multi-label models."""
    if any(isinstance(label, list) for _, label in pairs):
        return []
    of: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for row, (answer, label) in enumerate(pairs):
        of[label].append((row, answer))
    found = []
    for label, rows in of.items():
        for answered in sorted({answer for _, answer in rows}):
            share = _share([(row, answer == answered) for row, answer in rows], weights)
            count = sum(answer == answered for _, answer in rows)
            if share:
                found.append(Confused(label=label, prediction=answered, **{**share.model_dump(), "labels": count}))
    return sorted(found, key=lambda one: (-one.labels, one.label, one.prediction))[:PAIRS]


def is_right(answer: str | list[str] | None, label: str | list[str] | None) -> bool:
    """Whether an answer is right; one of a multi-label model only if every label is."""
    if answer is None or label is None:
        return False
    return set(answer) == set(label) if isinstance(label, list) else answer == label


def rights(labelled: pa.Table) -> np.ndarray:
    """(L,) 1 for a right answer, 0 for a wrong one."""
    return np.array([is_right(*pair) for pair in _pairs(labelled)], float)


def numbers(column: pa.ChunkedArray, missing: float = 0.0) -> np.ndarray:
    """(N,) float64; what is not a finite number becomes `missing`."""
    values = np.array(column.cast(pa.float64()).to_numpy(zero_copy_only=False), float)
    return np.where(np.isfinite(values), values, missing)


def _share(rows: Sequence[tuple[int, bool]], weights: np.ndarray) -> Share | None:
    """The share of `rows` (row, hit) that hit. Weighted labels are worth fewer (Kish 1965)."""
    index, hit = np.array([row for row, _ in rows]), np.array([good for _, good in rows], float)
    if np.isnan(weights).all():
        return Share(labels=len(rows), value=float(hit.mean()))
    each = weights[index]
    if not each.sum():
        return None
    value, worth = float(each @ hit / each.sum()), float(each.sum() ** 2 / (each**2).sum())
    low, high = interval(value * worth, worth)
    return Share(labels=int((each > 0).sum()), value=value, low=low, high=high)


def _given(right: np.ndarray) -> Share | None:
    if not len(right):
        return None
    low, high = wilson(int(right.sum()), len(right), two_sided(0.95))
    return Share(labels=len(right), value=float(right.mean()), low=low, high=high)


def _sources(
    of: pa.ChunkedArray, labelled_of: pa.ChunkedArray, confidence, sure, right, chance, total: int
) -> dict[str, LiveAccuracy]:
    """The accuracy of the sources with the most labels."""
    of, labelled_of = (pc.fill_null(column, NO_SOURCE) for column in (of, labelled_of))
    names, there = np.array(of.to_pylist(), object), np.array(labelled_of.to_pylist(), object)
    counts = sorted(labelled_of.value_counts().to_pylist(), key=lambda one: -one["counts"])[:SOURCES]
    found = {}
    for name in [one["values"] for one in counts]:
        rows, mine = names == name, there == name
        answers = round(total * rows.mean()) if len(rows) else 0
        one = live_accuracy(confidence[rows], sure[mine], right[mine], chance[mine], answers)
        if one is not None:
            found[name] = one
    return found


def _pairs(labelled: pa.Table) -> list[tuple]:
    return list(zip(labelled["prediction"].to_pylist(), labelled["label"].to_pylist(), strict=True))


def _names(value: str | list[str] | None) -> list[str]:
    return value if isinstance(value, list) else [value] if value is not None else []
