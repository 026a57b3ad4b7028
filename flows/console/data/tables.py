"""The tables of the pages of data as rows of CSV files."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from flows.console.data.batch import Validation
from flows.console.data.batches import BatchRow, LabelBatch
from flows.console.data.refusals import RefusedRow
from tasks.common.schemas import SPLITS

BATCHES = ("batch", "kind", "added", "by", "rows", "offered", "quarantined", "state", "why", "versions", "classes")
BATCHES = (*BATCHES, "sources")
RULES = ("kind", "rule", "result", "value", "bound", "in words")

Table = tuple[str, Sequence[str], Iterable[tuple]]  # name of the file, columns, rows


def batches_table(rows: Iterable[BatchRow]) -> Table:
    def line(row: BatchRow) -> tuple:
        return (
            row.id, row.kind, row.at, row.by, row.rows, row.offered, row.refused, row.state,
            row.stone.why if row.stone else "", " ".join(row.versions), listed(row.counts.classes),
            listed(row.counts.sources),
        )  # fmt: skip

    return "batches", BATCHES, map(line, rows)


def classes_table(totals: Iterable[tuple[str, Mapping[str, int]]]) -> Table:
    return "classes", ("class", *SPLITS), [(name, *counts.values()) for name, counts in totals]


def labels_table(labels: Iterable[LabelBatch]) -> Table:
    return "label-batches", ("batch", "added", "by", "words"), [(one.id, one.at, one.by, one.rows) for one in labels]


def quarantine_table(batch: str, refused: Iterable[RefusedRow]) -> Table:
    rows = [(one.where, one.reason, one.detail) for one in refused]
    return f"{batch}-quarantine", ("image", "reason", "detail"), rows


def mix_table(row: BatchRow) -> Table:
    """How many images of a batch have each class, split and source."""
    of = {"class": row.counts.classes, "split": row.counts.splits, "source": row.counts.sources}
    rows = [(what, name, count) for what, counts in of.items() for name, count in counts.items()]
    return f"{row.id}-mix", ("what", "name", "images"), rows


def given_and_seen_table(batch: str, validation: Validation | None) -> Table:
    """Each image that looks like another class than it is labelled as."""
    found = validation.opinions if validation else []
    rows = [(one["id"], one["given"], one["seen"], one["confidence"]) for one in found]
    return f"{batch}-given-and-seen", ("image", "given", "seen", "confidence"), rows


def rules_table(
    name: str, checks: Iterable[Mapping[str, Any]], expectations: Iterable[Mapping[str, Any]] = ()
) -> Table:
    """The rules that a validation checked, then its expectations."""
    return f"{name}-rules", RULES, [*_checks(checks), *_expectations(expectations)]


def _checks(checks: Iterable[Mapping[str, Any]]) -> Iterator[tuple]:
    for one in checks:
        yield "rule", one["name"], one["status"], one.get("value"), one.get("bound"), one.get("detail", "")


def _expectations(expectations: Iterable[Mapping[str, Any]]) -> Iterator[tuple]:
    for one in expectations:
        status = "error" if one["error"] else "pass" if one["passed"] else "fail"
        yield "expectation", one["type"], status, one["broken_by"], None, one["severity"]


def listed(counts: Mapping[str, int]) -> str:
    """Counts in one cell."""
    return "; ".join(f"{name}: {count}" for name, count in counts.items())
