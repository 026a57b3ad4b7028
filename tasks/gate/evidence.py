"""The gate's evidence: both models' answers to the same images, checked and in named sets.

N images, K classes. Evidence that cannot be used raises Unusable, which the gate turns into an error check.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tasks.common.errors import DataError
from tasks.common.schemas import MEASURING
from tasks.common.text import one_line
from tasks.gate.looks import Asked
from tasks.inference.thresholds import Rule, answers, make_rule
from tasks.scoring.skill import Skill
from tasks.scoring.slices import with_sources
from tasks.scoring.targets import encode

COLUMNS = ("id", "split", "batch", "label", "slice", "probabilities")
NEWEST = 60  # audit samples that are judged together
SOURCE = "slice:source="  # slices that nobody asked for
SUM_TOLERANCE = 1e-3  # of float32 probabilities over K classes


def short_id(image: str) -> str:
    """The start of an id, as people type it."""
    return image[:12]


@dataclass(frozen=True)
class Contender:
    """One of the two models that the gate compares."""

    name: str  # the challenger: sha256 of its bundle manifest; the champion: its version
    predictions: pa.Table  # predictions_schema
    metrics: dict  # metrics/evaluate.json; of the champion only thresholds, weights, corruptions are read, if present


@dataclass(frozen=True)
class Trial:
    """What both models were tried on."""

    classes: list[str]  # the order of the columns of `probabilities`
    task: str  # multiclass or multilabel
    train_counts: dict[str, int]  # training images of each class
    hard_set: str | None  # version of the hard set; None: there is none
    calibration: Skill | None = None  # of the challenger's head on the calibration split; None: it was not measured
    shown: Callable[[str], str] = short_id  # how an error names the image with this id
    clusters: Mapping[str, str] = field(default_factory=dict)  # near-duplicate cluster of images, by id
    samples: pa.Table | None = None  # id, split, label of the images that evaluate must have measured; None: not known
    shipped: float | None = None  # see tasks.gate.shipped.bundle_difference; None: it was not measured
    costs: Mapping[str, float] = field(default_factory=dict)  # of missing a class; 1 where none is given
    asked: tuple[Asked, ...] = ()  # how often the sets were asked, with this time
    unfair: frozenset[str] = frozenset()  # hard images that do not count in the comparison with the champion
    unfair_why: str = ""  # what the verdict says of them
    seeds: Mapping | None = None  # {scores, spread} of trainings that differ in their seed alone; None: of one


class Unusable(Exception):
    """Evidence that cannot be judged: `name` becomes the check's name, the message its detail.

    image: the id of an image that shows what is wrong.
    """

    def __init__(self, name: str, detail: str, image: str | None = None):
        self.name, self.image = name, image
        super().__init__(detail)


@dataclass(frozen=True)
class Evidence:
    """Both models' answers to the same N images, in the order of the challenger's predictions."""

    targets: np.ndarray  # (N,) class indices or (N, K) of 0 and 1
    new: np.ndarray  # the challenger's answers: (N,) class indices or (N, K) bool
    old: np.ndarray | None  # the champion's; None: there is none
    sets: dict[str, np.ndarray]  # "test", "newest", "hard", "slice:name=value" -> (N,) bool; none is empty
    groups: np.ndarray  # (N,) group, else near-duplicate cluster: one observation; None: the image alone
    ids: list[str]  # (N,)
    keys: list[str | None]  # (N,) the owner's own names


def read(challenger: Contender, champion: Contender | None, trial: Trial) -> Evidence:
    """Join both models' predictions by id and turn probabilities into answers. Raises Unusable."""
    classes, task = trial.classes, trial.task
    if champion is not None and champion.predictions is None:
        raise Unusable("champion", f"the predictions of the champion {champion.name} are missing")
    if champion is not None and not champion.name:
        raise Unusable("champion", "the champion's predictions come without its version")
    if not classes:
        raise Unusable("classes", "the model has no classes")
    for who, contender in (("challenger", challenger), ("champion", champion)):
        if contender is None:
            continue
        if lacking := [name for name in COLUMNS if name not in contender.predictions.column_names]:
            raise Unusable(who, f"the {who}'s predictions lack the columns {lacking}")
    ids, targets = _labels(challenger.predictions, classes, task, "challenger")
    new = _answers(challenger, classes, task, "challenger")
    old = None
    if champion is not None:
        others, labels = _labels(champion.predictions, classes, task, "champion")
        place = {id_: row for row, id_ in enumerate(others)}
        if alone := set(ids) ^ set(others):
            raise Unusable(
                "champion",
                f"challenger and champion were not run on the same images: {len(ids)} and {len(others)} rows, "
                f"{len(alone)} ids are in one table only",
                min(alone),
            )
        order = np.array([place[id_] for id_ in ids])
        if not np.array_equal(labels[order], targets):
            differs = (labels[order] != targets).reshape(len(ids), -1).any(axis=1)
            raise Unusable(
                "champion",
                "challenger and champion have different labels for the same images: run the champion again",
                ids[int(differs.argmax())],
            )
        old = _answers(champion, classes, task, "champion")[order]
    rows = challenger.predictions
    named = rows.column(_group_column(rows)).to_pylist()
    groups = [trial.clusters.get(id_) if group is None else group for id_, group in zip(ids, named, strict=True)]
    keys = rows["key"].to_pylist() if "key" in rows.column_names else [None] * len(ids)
    return Evidence(targets, new, old, named_sets(rows), np.array(groups, object), ids, keys)


def differing(challenger: Contender, champion: Contender | None, trial: Trial) -> dict[str, float]:
    """Set -> share of its images that only one of the two models has right; {} where that cannot be measured."""
    with suppress(Unusable):
        found = read(challenger, champion, trial)
        if found.old is not None:
            right = [
                (side == found.targets).reshape(len(found.targets), -1).all(axis=1) for side in (found.new, found.old)
            ]
            differs = right[0] != right[1]
            return {name: float(differs[found.sets[name]].mean()) for name in ("hard", "test") if name in found.sets}
    return {}


def _group_column(table: pa.Table) -> str:
    """The column with the groups: in predictions of a run before an upgrade, the source was the group."""
    return "group" if "group" in table.column_names else "source"


def _answers(contender: Contender, classes: list[str], task: str, who: str) -> np.ndarray:
    """(N,) class indices or (N, K) bool, in the order of the contender's own rows."""
    probabilities = _probabilities(contender.predictions, classes, task, who)
    return answers(probabilities, _rule(contender.metrics, classes, task, who))


def _labels(table: pa.Table, classes: list[str], task: str, who: str) -> tuple[list[str], np.ndarray]:
    ids = table.column("id").to_pylist()
    if len(set(ids)) != len(ids) or None in ids:
        twice = next((id_ for id_, count in Counter(ids).items() if id_ and count > 1), None)
        detail = f"ids of the {who}'s predictions are not unique: {len(ids)} rows, {len(set(ids))} ids"
        raise Unusable(who, detail, twice)
    labels = table.column("label")
    if labels.null_count:
        without = ids[pc.index(pc.is_null(labels), True).as_py()]
        raise Unusable(who, f"{labels.null_count} of {len(ids)} rows have no label", without)
    try:
        return ids, encode(labels, classes, task)
    except DataError as error:
        raise Unusable(who, str(error)) from None


def _probabilities(table: pa.Table, classes: list[str], task: str, who: str) -> np.ndarray:
    """(N, K) float64. The champion's may sum to less than 1: columns of classes that no longer exist are left out."""
    lists = table.column("probabilities").combine_chunks()
    widths = set(pc.list_value_length(lists).to_pylist())  # None: a row without probabilities
    if wrong := widths - {len(classes)}:
        raise Unusable(who, f"an image has {wrong.pop() or 0} probabilities of the {who}, expected {len(classes)}")
    values = lists.flatten().to_numpy(zero_copy_only=False).astype(np.float64)  # null becomes NaN
    values = values.reshape(len(lists), len(classes))
    if len(broken := np.flatnonzero(~np.isfinite(values).all(axis=1))):
        detail = f"the {who}'s probabilities of {len(broken)} of {len(lists)} images are not finite"
        raise Unusable(who, detail, table.column("id")[int(broken[0])].as_py())
    if values.size and (values.min() < 0 or values.max() > 1 + SUM_TOLERANCE):
        raise Unusable(who, f"probabilities run from {values.min():.4g} to {values.max():.4g}, expected 0 to 1")
    if task == "multiclass":
        total = values.sum(axis=1)
        if (total > 1 + SUM_TOLERANCE).any() or (who == "challenger" and (total < 1 - SUM_TOLERANCE).any()):
            raise Unusable(who, f"probabilities of an image sum to {total.min():.4g} .. {total.max():.4g}, expected 1")
    return values


def _rule(metrics: dict, classes: list[str], task: str, who: str) -> Rule:
    """How the model answers. Multi-class without weights (bundles of schema 1 and 2): the most probable class."""
    found = metrics.get("thresholds" if task == "multilabel" else "weights")
    if task == "multiclass":
        if found is not None and (not isinstance(found, dict) or not all(_is_weight(w) for w in found.values())):
            raise Unusable(who, f"the {who}'s metrics['weights'] are not a positive number for each class")
        return make_rule(task, classes, None, found)
    if not isinstance(found, dict) or not found:
        raise Unusable(who, f"the {who} has no thresholds: a multi-label answer needs metrics['thresholds']")
    if who == "challenger" and (missing := [name for name in classes if name not in found]):
        raise Unusable(who, f"thresholds lack {len(missing)} of {len(classes)} classes, e.g. {one_line(missing[0])}")
    return make_rule(task, classes, found, None)


def _is_weight(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value) and value > 0


def named_sets(table: pa.Table) -> dict[str, np.ndarray]:
    """The sets of Evidence, from the columns split, batch, slice, source and picked of predictions. Raises Unusable."""
    split = np.array(table.column("split").to_pylist(), object)
    test = split == "test"
    if other := set(split) - {"test", "hard"}:
        raise Unusable(
            "challenger", f"predictions hold rows of split {sorted(map(str, other))}, expected test and hard"
        )
    if not test.any():
        raise Unusable("test", f"none of {len(split)} rows is in the test split: there is nothing to judge")
    sets = {"test": test}
    batch = np.array(table.column("batch").to_pylist(), object)
    sets["newest"] = newest(batch, test, _picked(table))
    if (split == "hard").any():
        sets["hard"] = split == "hard"
    of_test = np.flatnonzero(test)
    tested = table.select(["slice", *({"source"} & set(table.column_names))]).take(pa.array(of_test))
    slices = tested["slice"].to_pylist()
    if "source" in tested.column_names:
        slices = with_sources(slices, tested["source"].to_pylist())
    members: dict[str, list[int]] = {}
    for row, entries in zip(of_test.tolist(), slices, strict=True):
        for entry in entries or ():
            members.setdefault(f"slice:{entry['name']}={entry['value']}", []).append(row)
    for name, rows in members.items():
        sets[name] = np.zeros(len(split), bool)
        sets[name][rows] = True
    return sets


def newest(batch: np.ndarray, test: np.ndarray, picked: np.ndarray) -> np.ndarray:
    """(N,) bool: the newest test images that are a fair sample, of N rows in canonical order: batches as they came.

    They are those of the newest batch that has any. Audit samples come in small batches: earlier ones are added until
    there are NEWEST. Without any fair sample it is the whole test set.
    """
    fair = test & np.isin(picked, MEASURING)
    if not fair.any():
        return test.copy()
    chosen = fair & (batch == batch[fair][-1])
    if (picked[chosen] == "audit").all():
        audit = fair & (picked == "audit")
        for name in dict.fromkeys(batch[audit][::-1].tolist()):
            if chosen.sum() >= NEWEST:
                break
            chosen |= audit & (batch == name)
    return chosen


def _picked(table: pa.Table) -> np.ndarray:
    """(N,) how each image was picked; predictions of a run before an upgrade do not say it, and count as fair."""
    if "picked" not in table.column_names:
        return np.full(len(table), "representative", object)
    return np.array(table.column("picked").to_pylist(), object)
