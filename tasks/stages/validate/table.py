"""The table under validation: which samples are still usable, what was found, and the report.

N samples, in the order of artifacts/inspect/samples.parquet.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tasks.common.checks import Check
from tasks.dataset.shards import BatchManifest
from tasks.stages.validate.expectations import Outcome


def labels_of(label: str | list[str]) -> list[str]:
    """A sample's labels: one for multi-class, any number for multi-label."""
    return [label] if isinstance(label, str) else label


class SampleTable:
    """The samples under validation. `reason` and `detail` (N,) say why a row is quarantined; None: it is not."""

    def __init__(self, samples: pa.Table):
        self.samples = samples
        self.ids = _objects(samples, "id")
        self.batch = _objects(samples, "batch")
        self.split = _objects(samples, "split")
        self.labels = samples.column("label").to_pylist()
        self.labelled = pc.is_valid(samples.column("label")).to_numpy()
        self.included = pc.is_null(samples.column("excluded")).to_numpy()
        status = _objects(samples, "status")
        self.reason = np.where(status == "ok", None, status)
        self.detail = np.where(status == "ok", "", "found when the image was inspected").astype(object)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def quarantined(self) -> np.ndarray:
        """(N,) bool."""
        return self.reason != None  # noqa: E711 - elementwise

    @property
    def fine(self) -> np.ndarray:
        """(N,) bool: neither quarantined nor excluded as a leak, so far."""
        return self.included & ~self.quarantined

    @property
    def training(self) -> np.ndarray:
        """(N,) bool: fine, labelled, in the training split."""
        return self.fine & self.labelled & (self.split == "train")

    def quarantine(self, row: int, reason: str, detail: str) -> None:
        """Quarantine `row`, unless it already is: the first reason stays."""
        if self.reason[row] is None:
            self.reason[row], self.detail[row] = reason, detail

    def counts(self, rows: np.ndarray) -> Counter:
        """Label -> labelled samples among `rows` (N,) bool."""
        found = Counter()
        for row in np.flatnonzero(rows & self.labelled):
            found.update(labels_of(self.labels[row]))
        return found

    def accepted(self) -> pa.Table:
        """The rows that are neither quarantined nor excluded."""
        return self.samples.filter(pa.array(self.fine))

    def refused_rows(self) -> pa.Table:
        """Quarantined rows: id, batch, shard, row, status, reason, detail."""
        rows = np.flatnonzero(self.quarantined)
        table = self.samples.select(["id", "batch", "shard", "row", "status"]).take(pa.array(rows))
        table = table.append_column("reason", pa.array(self.reason[rows], pa.string()))
        return table.append_column("detail", pa.array(self.detail[rows], pa.string()))


def _objects(samples: pa.Table, column: str) -> np.ndarray:
    return np.array(samples.column(column).to_pylist(), dtype=object)


@dataclass
class Findings:
    """Every check so far, and what was found on the way."""

    classes: list[str] = field(default_factory=list)
    of_batch: dict[str, list[Check]] = field(default_factory=dict)  # in the order in which they were judged
    of_table: list[Check] = field(default_factory=list)
    of_suite: list[Check] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)

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
    quarantined = Counter(manifest.quarantined) + Counter(table.reason[here & table.quarantined])
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
