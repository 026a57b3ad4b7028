"""The table under validation: which samples are still usable, what was found, and the report.

N samples, in the order of artifacts/inspect/samples.parquet.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tasks.common.checks import Check
from tasks.dataset.shards import BatchManifest
from tasks.stages.validate.expectations import Outcome

LEFT_OUT = "unknown_label"  # not a class of data.classes, or too rare to be one: a choice, not a fault of the batch
LEAKS = "leaks_"  # how the values of the column `excluded` begin that tasks.stages.inspect.leaks and copies.py give
NEAR = "near-duplicate of an image in {split}, or of its group: artifacts/inspect/duplicates.parquet has the pairs"


def labels_of(label: str | list[str]) -> list[str]:
    """A sample's labels: one for multi-class, any number for multi-label."""
    return [label] if isinstance(label, str) else label


def left_out_text(left_out: Mapping[str, int], most: int = 5) -> str:
    """How many samples have each label that is not a class, for a sentence."""
    named = [f"{count:,} {label!r}" for label, count in sorted(left_out.items(), key=lambda one: -one[1])]
    return ", ".join(named[:most]) + (f" and {len(named) - most} more labels" if len(named) > most else "")


class SampleTable:
    """The samples under validation. `reason` and `detail` (N,) say why a row is not accepted; None: it is.

    Rows with the reason LEFT_OUT are counted apart from quarantined ones.
    """

    def __init__(self, samples: pa.Table):
        self.samples = samples
        self.ids = _objects(samples, "id")
        self.batch = _objects(samples, "batch")
        self.split = _objects(samples, "split")
        self.labels = samples.column("label").to_pylist()
        self.labelled = pc.is_valid(samples.column("label")).to_numpy()
        self.given = self.labelled  # (N,) bool: it came with a label, before people said anything; see stage.run
        self.included = pc.is_null(samples.column("excluded")).to_numpy()
        status = _objects(samples, "status")
        self.reason = np.where(status == "ok", None, status)
        self.evidence: dict[str, str] = {}  # id of a leak -> what shows it, unless its perceptual hash does
        self.over_share = np.zeros(len(self.ids), bool)  # synthetic images above data.synthetic_share of their class
        self.shortened = False  # some labels of multi-label rows were left out
        self.detail = np.where(status == "ok", "", "found when the image was inspected").astype(object)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def quarantined(self) -> np.ndarray:
        """(N,) bool: something is wrong with the row."""
        return (self.reason != None) & ~self.left_out  # noqa: E711 - elementwise

    @property
    def left_out(self) -> np.ndarray:
        """(N,) bool: labelled with what is not a class."""
        return self.reason == LEFT_OUT

    def labelled_by_choice(self, batch: str) -> bool:
        """Whether the batch came without any label and people labelled images of it: chosen ones, not a fair sample."""
        here = self.batch == batch
        return not self.given[here].any() and bool(self.labelled[here].any())

    @property
    def fine(self) -> np.ndarray:
        """(N,) bool: neither quarantined, left out nor excluded as a leak, so far."""
        return self.included & (self.reason == None)  # noqa: E711 - elementwise

    @property
    def training(self) -> np.ndarray:
        """(N,) bool: fine, labelled, in the training split."""
        return self.fine & self.labelled & (self.split == "train")

    def quarantine(self, row: int, reason: str, detail: str) -> None:
        """Quarantine `row`, unless it already is: the first reason stays."""
        if self.reason[row] is None:
            self.reason[row], self.detail[row] = reason, detail

    def refuse_as(self, other: "SampleTable") -> None:
        """Quarantine the rows that `other`, a table of the same samples, quarantines."""
        rows = other.quarantined
        self.reason[rows], self.detail[rows] = other.reason[rows], other.detail[rows]

    def leave_out_synthetic(self, rows: np.ndarray) -> None:
        """Leave out the synthetic images `rows` (N,) bool: their class has too many."""
        self.over_share |= rows
        self.included = self.included & ~rows

    def counts(self, rows: np.ndarray) -> Counter:
        """Label -> labelled samples among `rows` (N,) bool."""
        found = Counter()
        for row in np.flatnonzero(rows & self.labelled):
            found.update(labels_of(self.labels[row]))
        return found

    def accepted(self) -> pa.Table:
        """The rows that are neither quarantined, left out nor excluded; multi-label: without labels left out."""
        samples = self.samples
        if self.shortened:
            place = samples.column_names.index("label")
            labels = pa.array(self.labels, samples.schema.field(place).type)
            samples = samples.set_column(place, samples.schema.field(place), labels)
        return samples.filter(pa.array(self.fine))

    def leave_out(self, row: int, unlisted: set[str], why: str, whole: bool = False) -> None:
        """Leave out the row, or in multi-label data only its labels `unlisted`: the image says something of others.

        whole: the row in any case, because without that label it would say something wrong.
        """
        if whole or isinstance(self.labels[row], str):
            self.quarantine(row, LEFT_OUT, why)
        else:
            self.labels[row] = [name for name in self.labels[row] if name not in unlisted]
            self.shortened = True

    def refused_rows(self) -> pa.Table:
        """Quarantined and left out rows and leaks: id, batch, shard, row, status, reason, detail."""
        excluded = _objects(self.samples, "excluded")
        leaks = np.array([why is not None and why.startswith(LEAKS) for why in excluded], bool)
        leaks &= self.reason == None  # noqa: E711 - elementwise
        reason, detail = np.where(leaks, excluded, self.reason), self.detail.copy()
        for row in np.flatnonzero(leaks):
            split = excluded[row].removeprefix(LEAKS).replace("hard", "the hard set")
            detail[row] = self.evidence.get(self.ids[row], NEAR.format(split=split))
        rows = np.flatnonzero(self.quarantined | self.left_out | leaks)
        table = self.samples.select(["id", "batch", "shard", "row", "status"]).take(pa.array(rows))
        table = table.append_column("reason", pa.array(reason[rows], pa.string()))
        return table.append_column("detail", pa.array(detail[rows], pa.string()))


def _objects(samples: pa.Table, column: str) -> np.ndarray:
    return np.array(samples.column(column).to_pylist(), dtype=object)


@dataclass
class Findings:
    """Every check so far, and what was found on the way."""

    classes: list[str] = field(default_factory=list)
    left_out: Counter = field(default_factory=Counter)  # label that is not a class -> samples
    of_batch: dict[str, list[Check]] = field(default_factory=dict)  # in the order in which they were judged
    of_table: list[Check] = field(default_factory=list)
    of_suite: list[Check] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    opinions: dict[str, list[dict]] | None = None  # of the probe about the batch that was judged last

    def all_checks(self) -> list[Check]:
        return [*self.of_table, *self.of_suite, *(check for checks in self.of_batch.values() for check in checks)]


def failures(checks: Sequence[Check]) -> list[str]:
    """One sentence per check that did not pass; an error has not passed."""
    return [check.detail for check in checks if check.status != "pass"]


def report(found: Findings, table: SampleTable, manifests: list[BatchManifest], refused: dict | None) -> dict:
    """result.json: every check with value and bound. `refused`: {what, reasons}; None if the data is accepted."""
    return {
        "passed": refused is None,
        "refused": refused,
        "rows": len(table),
        "accepted": int(table.fine.sum()),
        "labelled_training_rows": int(table.training.sum()),
        "excluded": dict(Counter(table.samples.column("excluded").drop_null().to_pylist())),
        "quarantined": dict(Counter(table.reason[table.quarantined])),
        "left_out": dict(sorted(found.left_out.items())),
        "classes": found.classes,
        "checks": [check.model_dump() for check in [*found.of_table, *found.of_suite]],
        "expectations": [
            {**outcome.model_dump(exclude={"unexpected"}), "broken_by": len(outcome.unexpected)}
            for outcome in found.outcomes
        ],
        "batches": [_about_batch(found, table, manifest) for manifest in manifests],
    }


def _about_batch(found: Findings, table: SampleTable, manifest: BatchManifest) -> dict:
    here = table.batch == manifest.batch
    quarantined = Counter(manifest.quarantined) + Counter(table.reason[here & (table.quarantined | table.left_out)])
    return {
        "batch": manifest.batch,
        "kind": manifest.kind,
        "rows": int(here.sum()),
        "accepted": int((here & table.fine).sum()),
        "quarantined": dict(quarantined),
        "mix": dict(table.counts(here & table.training)),
        "judged": manifest.batch in found.of_batch,
        "checks": [check.model_dump() for check in found.of_batch.get(manifest.batch, [])],
    }
