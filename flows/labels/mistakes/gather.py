"""Finds the mistakes of a run and what taught them, in the run's worktree.

The classifier is taught again on the run's own features, as the stage train_head does it (class-balanced for crt, else
as often as each class is there), because the formulas hold for a classifier at its optimum. Where it makes the same
mistake, it explains it. N training images, K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from flows.labels.mistakes.found import Brings, Fix, Found, Label, Mistake, Teacher
from flows.labels.people import read_words
from tasks.common import artifacts
from tasks.common.errors import EvergreenError
from tasks.common.files import read_json
from tasks.common.params import Params
from tasks.inference import thresholds
from tasks.models import influence, remedies, stage1
from tasks.models.causes import Causes, explainable, find_causes
from tasks.models.influence import Taught, targets
from tasks.models.remedies import HeldOut
from tasks.scoring.targets import class_counts, encode

CELLS = 40_000_000  # training images times classes; of more images, random ones stand for all
FEATURE_CELLS = 200_000_000  # training images times feature dimensions: 400 MB
BALANCED = ("crt", "max_norm", "soup", "smote")  # methods that fit to balanced classes
NATURAL_L2 = 0.03  # of a classifier that is not class-balanced, as in train_head


@dataclass(frozen=True)
class Wrong:
    """Q wrong answers. x: (Q, D); answers, truths: (Q, K) of 0 and 1."""

    ids: list[str]
    where: list[str]
    x: np.ndarray
    answers: np.ndarray
    truths: np.ndarray
    confidence: np.ndarray

    def take(self, rows: Sequence[int]) -> "Wrong":
        """Some of them, in that order."""
        at = list(rows)
        named = [[values[row] for row in at] for values in (self.ids, self.where)]
        return Wrong(*named, *(values[at] for values in (self.x, self.answers, self.truths, self.confidence)))


def find_mistakes(
    tree: Path, params: Params, run: str, most: int, asked: "Asked | None" = None, now: datetime | None = None
) -> Found:
    """The mistakes of the run in worktree `tree`, and at most `most` training labels to look at.

    asked: labelled wrong answers of production. Raises EvergreenError for a run without training images of its own.
    """
    if not (tree / "artifacts/train_head/head.json").is_file():
        raise EvergreenError(f"run {run} trained no model here (it was adopted): its training images are not known")
    rows, (classes, task) = artifacts.training_rows(tree), artifacts.classes_and_task(tree)
    x = {name: stage1.stage1_features(tree, table, params.images) for name, table in rows.items() if len(table)}
    train = sampled(rows["train"], min(CELLS // len(classes), FEATURE_CELLS // x["train"].shape[1]))
    x["train"] = stage1.stage1_features(tree, train, params.images)
    taught = _taught(tree, x["train"], encode(train["label"], classes, task), len(classes))
    wrong, counts = _wrong(tree, rows, x, classes, task)
    if asked is not None:
        counts["production"] = (asked.images, len(asked.wrong.ids))
        wrong = _together(wrong, asked.wrong)
    order = np.argsort(-wrong.confidence, kind="stable")
    shown = wrong.take(order[: explainable(taught)])
    causes = find_causes(taught, shown.x, shown.answers, shown.truths)
    words = read_words(tree, params)
    about = _Rows(
        train, {name: _annotators(said) for name, said in words.said.items()}, classes, taught.y, taught.multilabel
    )
    fixes, brings = _fixes(tree, taught, rows, x, about, classes, task, most)
    again = _answers(taught, shown.x)
    return Found(
        run=run,
        at=now or datetime.now(UTC),
        rows=len(train),
        counts=counts,
        mistakes=[_mistake(shown, place, again[place], one, about) for place, one in enumerate(causes)],
        left=len(wrong.ids) - len(shown.ids),
        fixes=fixes,
        brings=brings,
    )


@dataclass(frozen=True)
class Asked:
    """Labelled answers of the run's model in production: how many, and the wrong ones."""

    images: int
    wrong: Wrong


@dataclass(frozen=True)
class _Rows:
    """What people want to know of the training images."""

    table: pa.Table
    annotators: dict[str, list[str]]
    classes: list[str]
    y: np.ndarray
    multilabel: bool

    def teacher(self, row: int, **found: float) -> Teacher:
        one = {name: self.table[name][row].as_py() for name in ("id", "batch")}
        who = self.annotators.get(one["id"], [])
        return Teacher(label=_label(self.y[row], self), annotators=who, **one, **found)


def _annotators(said: Sequence[dict]) -> list[str]:
    return list(dict.fromkeys(row["annotator"] for row in said if row["annotator"] and not row["retracts"]))[:5]


def _label(label: np.ndarray, about: _Rows) -> Label:
    names = [name for name, value in zip(about.classes, label, strict=True) if value > 0]
    return names if about.multilabel else names[0]


def sampled(table: pa.Table, most: int) -> pa.Table:
    """At most so many rows, drawn at random, in their order."""
    if len(table) <= most:
        return table
    return table.take(pa.array(np.sort(np.random.default_rng(0).choice(len(table), most, replace=False))))


def _taught(tree: Path, x, y: np.ndarray, classes: int) -> Taught:
    head = read_json(tree / "artifacts/train_head/head.json")
    about = head.get("probe", head) if head.get("network") == "pretrained" else head
    if about.get("method", head["method"]) not in BALANCED:
        return influence.teach(x[:], y, classes, None, NATURAL_L2)
    share = 1 / np.maximum(class_counts(y, classes), 1)
    weight = share[y] if y.ndim == 1 else np.maximum((y * share).max(axis=1), share.min())
    return influence.teach(x[:], y, classes, weight, about.get("settings", {}).get("crt", NATURAL_L2))


def _wrong(tree: Path, rows: dict, x: dict, classes: list[str], task: str) -> tuple[Wrong, dict[str, tuple[int, int]]]:
    """The wrong answers of the exported model to test and hard images."""
    calibration = read_json(artifacts.stage_output(tree / "artifacts/calibrate/calibration.json", "calibrate"))
    file = artifacts.stage_output(tree / "artifacts/evaluate/predictions.parquet", "evaluate")
    table = pq.read_table(file, columns=["id", "probabilities"]).to_pydict()
    said = dict(zip(table["id"], table["probabilities"], strict=True))
    rule = thresholds.read_rule(calibration, classes)
    parts, counts = [], {}
    for where in ("test", "hard"):
        here = [row for row, name in enumerate(rows[where]["id"].to_pylist()) if name in said]
        if not here:
            continue
        ids = [rows[where]["id"][row].as_py() for row in here]
        p = np.array([said[name] for name in ids], np.float32)
        truths = targets(encode(rows[where]["label"].take(pa.array(here)), classes, task), len(classes))
        answers = targets(thresholds.answers(p, rule), len(classes))
        bad = np.flatnonzero((answers != truths).any(axis=1))
        counts[where] = (len(ids), len(bad))
        sure = thresholds.confidence(p, rule)
        features = x[where][np.array(here)[bad]].astype(np.float32) if len(bad) else None
        if features is not None:
            parts.append(
                Wrong([ids[row] for row in bad], [where] * len(bad), features, answers[bad], truths[bad], sure[bad])
            )
    if not parts:
        empty = np.empty((0, len(classes)), np.float32)
        return Wrong([], [], np.empty((0, x["train"].shape[1]), np.float32), empty, empty, np.empty(0)), counts
    found = parts[0]
    for part in parts[1:]:
        found = _together(found, part)
    return found, counts


def _together(a: Wrong, b: Wrong) -> Wrong:
    """Both, each image once."""
    new = b.take([row for row, name in enumerate(b.ids) if name not in set(a.ids)])
    arrays = ("x", "answers", "truths", "confidence")
    return Wrong(
        a.ids + new.ids,
        a.where + new.where,
        *(np.concatenate([getattr(a, name), getattr(new, name)]) for name in arrays),
    )


def _answers(taught: Taught, x: np.ndarray) -> np.ndarray:
    """(Q, K) of 0 and 1: what the classifier that was taught again says."""
    if not len(x):
        return np.empty((0, taught.classes), np.float32)
    logits = taught.classifier.logits(x)
    return (logits > 0).astype(np.float32) if taught.multilabel else targets(logits.argmax(axis=1), taught.classes)


def _mistake(wrong: Wrong, place: int, again: np.ndarray, causes: Causes, about: _Rows) -> Mistake:
    return Mistake(
        id=wrong.ids[place],
        where=wrong.where[place],
        truth=_label(wrong.truths[place], about),
        answer=_label(wrong.answers[place], about),
        confidence=float(wrong.confidence[place]),
        repeated=bool((again == wrong.answers[place]).all()),
        taught=[about.teacher(row, effect=round(value, 4)) for row, value in causes.taught],
        near=[about.teacher(row, similarity=round(value, 4)) for row, value in causes.near],
    )


def _fixes(
    tree: Path, taught: Taught, rows: dict, x: dict, about: _Rows, classes: list[str], task: str, most: int
) -> tuple[list[Fix], Brings | None]:
    """Chosen by the calibration images, measured on the test images."""
    if not len(rows["calibration"]) or not len(rows["test"]):
        return [], None
    cleaned = pq.read_table(tree / "artifacts/clean/labels.parquet", columns=["id", "quality", "predicted"]).to_pydict()
    known = {name: place for place, name in enumerate(cleaned["id"])}
    places = [known[name] for name in about.table["id"].to_pylist()]
    quality = np.array([cleaned["quality"][place] for place in places], float)
    predicted, number = taught.y.copy(), {name: place for place, name in enumerate(classes)}
    for row, place in enumerate(places):
        said = cleaned["predicted"][place]
        names = [said] if isinstance(said, str) else said
        if names is not None and all(name in number for name in names):  # classes may have changed since
            predicted[row] = 0
            predicted[row, [number[name] for name in names]] = 1

    def held(split: str) -> HeldOut:
        y = encode(rows[split]["label"], classes, task)
        return HeldOut(x[split][:].astype(np.float32), y, rows[split]["group"].to_pylist())

    changes = remedies.choose_changes(taught, held("calibration"), np.nan_to_num(quality, nan=1.0), predicted, most)
    if not changes:
        return [], None
    effect = remedies.effect(taught, changes, held("test"))
    about_effect = {name: getattr(effect, name) for name in Brings.model_fields if name != "chosen_by"}
    fixes = []
    for change in changes:
        row = about.teacher(change.row)
        to = None if change.label is None else _label(change.label, about)
        fixes.append(Fix(id=row.id, label=row.label, to=to, batch=row.batch, annotators=row.annotators))
    return fixes, Brings(chosen_by=len(rows["calibration"]), **about_effect)
