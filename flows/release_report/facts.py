"""Computes the release report's figures: both models compared, mistakes, doubtful labels, changes.

N test and hard images, K classes. "New" is the run's model, "old" the champion that it was judged against. Nothing here
decides anything: the gate gives the verdict.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from flows.release_report.measures import measures
from tasks.common.nested import flatten
from tasks.common.params import GateParams, Params
from tasks.gate.paired import compare
from tasks.inference.thresholds import answers, read_rule
from tasks.scoring import metrics
from tasks.scoring.intervals import two_sided, wilson
from tasks.scoring.targets import encode
from tasks.stages.evaluate import figures
from tasks.stages.evaluate.figures import Results

RESAMPLES = 100  # bootstrap samples of the test set, for what `measures` lists
Z = two_sided(0.95)  # of the recalls' intervals
SLICES = 12  # the largest are shown
PICKED_SETS = {"test": "test set", "newest": "newest batch", "hard": "hard set"}
TITLES = {"balanced_accuracy": "balanced accuracy", "accuracy": "accuracy", "macro_f1": "macro F1"}


@dataclass(frozen=True)
class Pair:
    """Both models' answers to the N images of predictions.parquet."""

    ids: list[str]
    new: Results
    old: Results | None  # None: there is no champion
    sets: dict[str, np.ndarray]  # "test", "newest", "hard", "slice:name=value" -> (N,) bool
    shots: list[str]  # (K,) many | medium | few


class Row(NamedTuple):
    """One figure of both models. `low`..`high`: interval of `new`; `change_low`..`change_high`: of new - old."""

    group: str
    name: str
    n: int
    new: float | None
    low: float | None
    high: float | None
    old: float | None = None
    change_low: float | None = None
    change_high: float | None = None
    higher_is_better: bool = True
    share: bool = True  # from 0 to 1: shown as points of 100

    @property
    def change(self) -> float | None:
        return None if self.new is None or self.old is None else self.new - self.old

    @property
    def trend(self) -> str:
        """better, worse, same (luck can explain the change) or unknown (there is no champion)."""
        if self.change is None:
            return "unknown"
        if self.change_low is None or self.change_high is None or self.change_low <= 0 <= self.change_high:
            return "same"
        return "better" if (self.change > 0) == self.higher_is_better else "worse"


def pair(new: pa.Table, old: pa.Table | None, about: dict, old_about: dict | None, classes: list[str]) -> Pair:
    """Join both models' predictions. new, old: predictions_schema; about, old_about: bundle.json of each model."""
    from tasks.gate.evidence import named_sets

    task = about["task"]
    targets = encode(new["label"], classes, task)
    evaluate = about["params"]["evaluate"]
    train = [about["data"]["images"]["train"][name] for name in classes]
    place = {id_: row for row, id_ in enumerate(old["id"].to_pylist())} if old is not None else {}
    other = old.take([place[id_] for id_ in new["id"].to_pylist()]) if old is not None else None
    return Pair(
        ids=new["id"].to_pylist(),
        new=_known(new, classes, targets, about),
        old=_known(other, classes, targets, old_about) if other is not None else None,
        sets=named_sets(new),
        shots=[figures.shot(count, evaluate["many_shot"], evaluate["few_shot"]) for count in train],
    )


def _known(table: pa.Table, classes: list[str], targets: np.ndarray, about: dict) -> Results:
    probabilities = np.array(table["probabilities"].to_pylist(), np.float64)
    rule = read_rule(about, classes)
    return Results(classes, rule.task, rule, targets, probabilities, answers(probabilities, rule))


def table(both: Pair, policy: GateParams, costs: Mapping[str, float] | None = None) -> list[Row]:
    """Every figure of the page; first the gate's own metric on the test set. costs: class -> cost of missing it."""
    multiclass = both.new.task == "multiclass"
    names = [policy.metric, *(name for name in TITLES if name != policy.metric)]
    names = [name for name in names if multiclass or name != "balanced_accuracy"] or ["macro_f1"]
    rows = [_row(both, both.sets["test"], "test set", name, policy) for name in names]
    rows += _drawn(both, both.sets["test"], policy.confidence, costs or {})
    main = names[0]
    if (both.sets["newest"] != both.sets["test"]).any():
        rows.append(_row(both, both.sets["newest"], "newest batch", main, policy))
    if "hard" in both.sets:
        rows.append(_row(both, both.sets["hard"], "hard set", main, policy))
    if multiclass:
        for shot in figures.SHOTS:
            of_shot = np.isin(both.new.targets, [k for k, found in enumerate(both.shots) if found == shot])
            if (mask := of_shot & both.sets["test"]).any():
                rows.append(_row(both, mask, f"{shot}-shot classes", "balanced_accuracy", policy, "mean recall"))
    slices = [(name, mask) for name, mask in both.sets.items() if name.startswith("slice:")]
    for name, mask in sorted(slices, key=lambda one: -one[1].sum())[:SLICES]:
        rows.append(_row(both, mask, name.removeprefix("slice:"), main, policy))
    return rows


def _row(both: Pair, mask: np.ndarray, group: str, metric: str, policy: GateParams, title: str | None = None) -> Row:
    """One metric on `mask`, with intervals by the gate's paired bootstrap.

    One model's interval is that of its difference from a model that is always wrong.
    """
    targets, classes = both.new.targets[mask], len(both.new.classes)
    wrong = (targets + 1) % classes if targets.ndim == 1 else ~targets.astype(bool)
    options = {"confidence": policy.confidence, "resamples": policy.resamples, "few": policy.min_class_support}

    def against(other: np.ndarray):
        return compare(metric, targets, both.new.predicted[mask], other, classes, **options)

    alone = against(wrong)
    row = Row(group, title or TITLES[metric], int(mask.sum()), *map(_finite, (alone.new, alone.low, alone.high)))
    if both.old is None:
        return row
    found = against(both.old.predicted[mask])
    return row._replace(
        old=_finite(found.old), change_low=_finite(found.low), change_high=_finite(found.high), new=_finite(found.new)
    )


def _drawn(both: Pair, mask: np.ndarray, confidence: float, costs: Mapping[str, float]) -> list[Row]:
    """The figures of `measures` on the test set, with intervals by a paired bootstrap over images."""
    rng = np.random.default_rng(0)
    n = int(mask.sum())
    if n < 2:
        return []
    draws = [np.arange(n)] + [rng.integers(0, n, n) for _ in range(RESAMPLES)]
    edges = [(1 - confidence) / 2, (1 + confidence) / 2]
    sides = [both.new.part(mask)] + ([both.old.part(mask)] if both.old else [])
    rows = []
    for one in measures(sides[0], costs):
        drawn = draws if one.drawn else draws[:1]
        found = np.array([[one.of(side.part(rows)) for rows in drawn] for side in sides])
        row = Row("test set", one.name, n, _finite(found[0, 0]), None, None)
        row = row._replace(higher_is_better=one.higher_is_better, share=one.share)
        if one.drawn:
            low, high = np.nanquantile(found[0, 1:], edges)
            row = row._replace(low=_finite(low), high=_finite(high))
        if both.old:
            row = row._replace(old=_finite(found[1, 0]))
        if both.old and one.drawn:
            low, high = np.nanquantile(found[0, 1:] - found[1, 1:], edges)
            row = row._replace(change_low=_finite(low), change_high=_finite(high))
        rows.append(row)
    return rows


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def how_picked(root: Path, predictions: pa.Table, sets: Mapping[str, np.ndarray]) -> str:
    """How the images of each judged set and of the drift reference were picked, in one sentence.

    predictions: predictions_schema; an image that does not say it counts as unknown.
    """
    if "picked" not in predictions.column_names:
        return ""
    picked = np.array([value or "unknown" for value in predictions["picked"].to_pylist()], object)
    parts = {title: picked[sets[name]] for name, title in PICKED_SETS.items() if name in sets}
    accepted = pq.read_table(root / "artifacts/validate/accepted.parquet", columns=["id", "picked"])
    ids = pq.read_table(root / "artifacts/bundle/reference.parquet", columns=["id"])["id"]
    reference = accepted["picked"].take(pc.index_in(ids, accepted["id"].combine_chunks()))
    parts["drift reference"] = np.array([value or "unknown" for value in reference.to_pylist()], object)
    listed = "; ".join(
        f"{title} {', '.join(f'{count} {name}' for name, count in Counter(values.tolist()).most_common())}"
        for title, values in parts.items()
    )
    return f"How the images were picked: {listed}."


def recalls(both: Pair, about: dict) -> list[dict]:
    """One row per class with test images: recall of both models with its Wilson interval, images, shot."""
    mask = both.sets["test"]
    truth = metrics.one_hot(both.new.targets[mask], len(both.new.classes))
    new = metrics.one_hot(both.new.predicted[mask], len(both.new.classes))
    old = metrics.one_hot(both.old.predicted[mask], len(both.new.classes)) if both.old else None
    rows = []
    for k in np.flatnonzero(truth.any(axis=0)):
        name, n = both.new.classes[k], int(truth[:, k].sum())
        found = new[truth[:, k], k]
        low, high = wilson(int(found.sum()), n, Z)
        rows.append(
            {
                "class": name,
                "train": about["data"]["images"]["train"][name],
                "n": n,
                "shot": both.shots[k],
                "new": float(found.mean()),
                "low": low,
                "high": high,
                "old": float(old[truth[:, k], k].mean()) if old is not None else None,
            }
        )
    return sorted(rows, key=lambda row: (-row["train"], row["class"]))


class Mistake(NamedTuple):
    place: int  # row of predictions.parquet
    given: str
    said: str
    confidence: float
    asked: int  # class whose Grad-CAM heat is shown


def mistakes(known: Results, places: np.ndarray, most: int) -> list[Mistake]:
    """The most confident mistakes among the rows `places`; multi-label: by the most confident wrong label."""
    part = known.part(places)
    truth = metrics.one_hot(part.targets, len(known.classes))
    said = metrics.one_hot(part.predicted, len(known.classes))
    wrong = truth != said
    if known.task == "multiclass":
        sure = np.where(wrong & said, part.probabilities, -1.0)
    else:
        sure = np.where(wrong, np.where(said, part.probabilities, 1 - part.probabilities), -1.0)
    rows = np.flatnonzero(wrong.any(axis=1))
    rows = rows[np.argsort(-sure[rows].max(axis=1), kind="stable")][:most]
    return [
        Mistake(
            int(places[row]),
            _labels(known.classes, truth[row]),
            _labels(known.classes, said[row]),
            float(sure[row].max()),
            int(sure[row].argmax()),
        )
        for row in rows
    ]


def _labels(classes: Sequence[str], there: np.ndarray) -> str:
    return ", ".join(classes[k] for k in np.flatnonzero(there)) or "(none)"


# --- labels and data -------------------------------------------------------------------------------------------


def label_issues(root: Path, most: int) -> tuple[list[dict], dict[str, int]]:
    """(the most doubtful labels, with id, split, given, suggested, action, confidence; number of each action).

    Changed labels come before those that wait for a person. Held-out labels are never changed.
    """
    cleaned = pq.read_table(root / "artifacts/clean/labels.parquet")
    issues = cleaned.filter(pc.or_(cleaned["is_issue"], pc.not_equal(cleaned["action"], "keep"))).to_pylist()
    for row in issues:
        row["given"], row["suggested"] = _text(row["given"]), _text(row["predicted"])
        row["action"] = row["action"] if row["split"] == "train" else "queue"
    counts = {action: sum(row["action"] == action for row in issues) for action in ("relabel", "drop", "queue")}
    by_action = {
        action: sorted((row for row in issues if row["action"] == action), key=lambda row: (row["quality"], row["id"]))
        for action in counts
    }
    third = -(-most // 3)
    shown = [row for rows in by_action.values() for row in rows[:third]]
    rest = [row for rows in by_action.values() for row in rows[third:]]
    shown += rest[: most - len(shown)]
    order = {action: place for place, action in enumerate(by_action)}
    return sorted(shown, key=lambda row: (order[row["action"]], row["quality"], row["id"])), counts


def _text(label: str | list[str] | None) -> str:
    return label if isinstance(label, str) else ", ".join(label or ()) or "(none)"


def differences(old: dict, new: dict) -> list[tuple[str, Any, Any]]:
    """(path, old, new) of every leaf that differs; None for a missing leaf."""
    before, after = flatten(old), flatten(new)
    return [
        (path, before.get(path), after.get(path))
        for path in sorted(before.keys() | after.keys())
        if before.get(path) != after.get(path)
    ]


def outlook(root: Path, params: Params) -> list[str]:
    """What more labels would bring, by the learning curve of these labels; [] unless `evergreen curve` measured it."""
    from tasks.active.outlook import known_curve, lines

    if (known := known_curve(root, params)) is None:
        return []
    return [line.strip() for line in lines(*known, params.review.budget, params.review.min_gain)]
