"""The images that two versions answer differently, by the answers that their commits store.

Only images that both versions were tested on count. Both are judged by the label that version B was judged by, and all
names are read as today. N images that both answered, K classes.
"""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from flows.repo.objects import ObjectLost, Objects, outs_at
from tasks.common.checks import Frozen
from tasks.gate.paired import compare_hits
from tasks.inference.thresholds import Rule, answers, confidence, read_rule
from tasks.labels.taxonomy import Taxonomy
from tasks.scoring.metrics import one_hot

CONFIDENCE = 0.95
NEEDED = ("artifacts/evaluate", "artifacts/calibrate")


class Answer(Frozen):
    """What one version said of one image: names joined by ", ", and how sure it was (0..1)."""

    said: str
    sure: float


class Flip(Frozen):
    """An image that only one of the two versions has right."""

    id: str
    key: str | None  # the owner's name of it
    split: str  # test | hard
    label: str
    a: Answer
    b: Answer
    to: Literal["right", "wrong"]  # in B


class ClassChange(Frozen):
    """The recall of one class in both versions, on the test images that both answered."""

    name: str
    n: int
    a: float
    b: float
    low: float  # interval of b - a
    high: float

    @property
    def trend(self) -> str:
        """better, worse, or same: luck can explain the change."""
        return "better" if self.low > 0 else "worse" if self.high < 0 else "same"


class Flips(Frozen):
    """How the answers of version B differ from those of A. `why`: why they cannot be compared; "" if they can."""

    images: int = 0  # that both answered
    only_a: int = 0
    only_b: int = 0
    both_right: int = 0
    rows: list[Flip] = []  # right -> wrong first, the surest wrong answers first
    classes: list[ClassChange] = []  # largest change first
    why: str = ""

    def count(self, to: str) -> int:
        return sum(row.to == to for row in self.rows)


class Given(Frozen):
    """One image with its label and one version's answer, in the names of then."""

    id: str
    key: str | None
    split: str
    label: tuple[str, ...]
    said: tuple[str, ...]
    sure: float


def flips_between(root: Path, objects: Objects, revs: tuple[str, str], taxonomy: Taxonomy) -> Flips:
    """Compare the stored answers of the commits `revs` (A, B)."""
    try:
        a, b = (answers_at(root, objects, rev) for rev in revs)
    except ObjectLost as lost:
        return Flips(why=str(lost))
    for rev, found in zip(revs, (a, b), strict=True):
        if found is None:
            return Flips(why=f"commit {rev[:12]} does not record what its model answered")
    return compare_answers(a, b, taxonomy)


def answers_at(root: Path, objects: Objects, rev: str) -> list[Given] | None:
    """The answers that commit `rev` records; None if it records none. Raises ObjectLost."""
    outs = outs_at(root, rev)
    if not outs.keys() >= set(NEEDED):
        return None
    evaluated, calibrated = (objects.files(outs[name]) for name in NEEDED)
    if "predictions.parquet" not in evaluated or "calibration.json" not in calibrated:
        return None
    about = json.loads(objects.read(calibrated["calibration.json"]))
    table = pq.read_table(io.BytesIO(objects.read(evaluated["predictions.parquet"])))
    return given(table, about["classes"], read_rule(about))


def given(table: pa.Table, classes: Sequence[str], rule: Rule) -> list[Given]:
    """Rows of predictions.parquet (N) as answers by name."""
    if not len(table):
        return []
    probabilities = np.array(table["probabilities"].to_pylist(), np.float64)
    said = one_hot(answers(probabilities, rule), len(classes)).astype(bool)
    sure = confidence(probabilities, rule)
    keys = table["key"].to_pylist() if "key" in table.column_names else [None] * len(table)
    labels = [(one,) if isinstance(one, str) else tuple(one or ()) for one in table["label"].to_pylist()]
    columns = zip(table["id"].to_pylist(), keys, table["split"].to_pylist(), labels, said, sure, strict=True)
    return [
        Given(
            id=id_,
            key=key,
            split=split,
            label=label,
            said=tuple(classes[k] for k in np.flatnonzero(row)),
            sure=round(float(one), 4),
        )
        for id_, key, split, label, row, one in columns
    ]


def compare_answers(a: Sequence[Given], b: Sequence[Given], taxonomy: Taxonomy) -> Flips:
    """How the answers `b` differ from `a`, both judged by the labels of `b`."""
    before = {one.id: one for one in a}
    pairs = [(before[one.id], one) for one in b if one.id in before]
    right = np.array([[is_right(side.said, new.label, taxonomy) for side in (old, new)] for old, new in pairs], bool)
    right = right.reshape(-1, 2)
    rows = [
        Flip(
            id=new.id,
            key=new.key,
            split=new.split,
            label=_names(new.label, taxonomy),
            a=Answer(said=_names(old.said, taxonomy), sure=old.sure),
            b=Answer(said=_names(new.said, taxonomy), sure=new.sure),
            to="right" if now else "wrong",
        )
        for (old, new), (then, now) in zip(pairs, right, strict=True)
        if then != now
    ]
    return Flips(
        images=len(pairs),
        only_a=len(before) - len(pairs),
        only_b=len(b) - len(pairs),
        both_right=int(right.all(axis=1).sum()),
        rows=sorted(rows, key=lambda row: (row.to == "right", -(row.a if row.to == "right" else row.b).sure, row.id)),
        classes=_classes(pairs, taxonomy),
    )


def is_right(said: Sequence[str], label: Sequence[str], taxonomy: Taxonomy) -> bool:
    """Is the answer right? A class that was split since is right for each of its parts: it can not tell them apart."""
    if len(said) == len(label) == 1:
        return taxonomy.atoms(label[0]) <= taxonomy.atoms(said[0])
    return {taxonomy.rename(name) for name in said} == {taxonomy.rename(name) for name in label}


def _classes(pairs: Sequence[tuple[Given, Given]], taxonomy: Taxonomy) -> list[ClassChange]:
    hits: dict[str, list[tuple[bool, bool]]] = {}
    for old, new in pairs:
        if new.split != "test":
            continue
        for name in new.label:
            found = tuple(
                any(taxonomy.atoms(name) <= taxonomy.atoms(word) for word in side.said) for side in (old, new)
            )
            hits.setdefault(taxonomy.rename(name), []).append(found)
    changes = []
    for name, rows in hits.items():
        found = np.array(rows, bool)
        one = compare_hits(found[:, 1], found[:, 0], CONFIDENCE)
        changes.append(ClassChange(name=name, n=one.n, a=one.old, b=one.new, low=one.low, high=one.high))
    return sorted(changes, key=lambda one: (-abs(one.b - one.a), one.name))


def _names(names: Sequence[str], taxonomy: Taxonomy) -> str:
    return ", ".join(taxonomy.rename(name) for name in names) or "(none)"
