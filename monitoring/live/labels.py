"""What late labels say about answers: the true label, and how the answer was picked."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple
from unicodedata import normalize

import pyarrow as pa
import pyarrow.compute as pc

from monitoring.log.production_log import Log, majority_labels
from monitoring.review.queue import Queued
from tasks.labels.reading import names_of
from tasks.labels.taxonomy import UNCHANGED, Taxonomy

QUEUE = "queue"  # picked because the model was unsure, or the image unfamiliar
Label = str | list[str] | None  # of an answer or a person
ANSWER = ("id", "at", "source", "version", "bundle", "prediction", "confidence")


class Truth(NamedTuple):
    """The true label of one image."""

    label: Label
    chance: float | None  # the probability with which it was picked for labelling; None: unknown
    hard: bool  # only the queue asked for it


def truths(labels: pa.Table, queued: Iterable[Queued] = (), taxonomy: Taxonomy = UNCHANGED) -> dict[str, Truth]:
    """Image id -> its truth, without images that people excluded.

    labels: of `Log.labels`; queued: what people were ever asked to label; taxonomy: reads the names of classes.
    """
    chances: dict[str, float] = {}
    picked: dict[str, set[str]] = {}
    for entry in queued:
        picked.setdefault(entry.id, set()).add(getattr(entry, "picked", None) or QUEUE)
        if chance := getattr(entry, "sampling_probability", None):  # drawn twice: the larger one is of both draws
            chances[entry.id] = max(chance, chances.get(entry.id, 0.0))
    for row in labels.select(["id", "picked", "sampling_probability"]).to_pylist():
        if row["picked"] not in (None, "unknown"):
            picked.setdefault(row["id"], set()).add(row["picked"])
        if row["sampling_probability"]:
            chances.setdefault(row["id"], row["sampling_probability"])
    known = majority_labels(labels, taxonomy)
    return {
        name: Truth(label, chances.get(name), picked.get(name) == {QUEUE})
        for name, label in zip(known["id"].to_pylist(), known["label"].to_pylist(), strict=True)
    }


def labelled_answers(
    log: Log,
    known: Mapping[str, Truth],
    start: datetime,
    end: datetime,
    bundle: str,
    taxonomy: Taxonomy = UNCHANGED,
) -> pa.Table:
    """The model's labelled answers of [start, end), each image once: ANSWER, label, chance, hard.

    Answers and labels are read in names that both can express.
    """
    found = log.answers(known, start, end, ANSWER)
    return in_common_names(with_truth(found.filter(pc.equal(found["bundle"], bundle)), known), taxonomy)


def in_common_names(labelled: pa.Table, taxonomy: Taxonomy) -> pa.Table:
    """`labelled` with prediction and label in names that both can express."""
    if not taxonomy.meaning:
        return labelled
    columns = {name: labelled[name].to_pylist() for name in ("prediction", "label")}
    read = common_reading(taxonomy, *columns.values())
    for name, values in columns.items():
        at, field = labelled.schema.get_field_index(name), labelled.schema.field(name)
        labelled = labelled.set_column(at, field, pa.array([read(value) for value in values], field.type))
    return labelled


def common_reading(taxonomy: Taxonomy, *columns: Sequence[Label]) -> Callable[[Label], Label]:
    """A function that reads answers and labels in names that all `columns` can express: classes may have changed."""
    naming = taxonomy.common(*({one for value in values for one in names_of(value)} for values in columns))

    def read(value: Label) -> Label:
        if isinstance(value, list):
            return sorted({naming[normalize("NFC", name)] for name in value})
        return None if value is None else naming[normalize("NFC", value)]

    return read


def with_truth(answers: pa.Table, known: Mapping[str, Truth]) -> pa.Table:
    """The answers (ANSWER) that have a prediction and a label, each image once, with label, chance and hard."""
    rows, seen = [], set()
    for row, (name, answer) in enumerate(
        zip(answers["id"].to_pylist(), answers["prediction"].to_pylist(), strict=True)
    ):
        if name in known and answer is not None and name not in seen:
            seen.add(name)
            rows.append(row)
    found = answers.take(pa.array(rows, pa.int64()))
    told = [known[name] for name in found["id"].to_pylist()]
    return (
        found.append_column("label", pa.array([one.label for one in told], answers.schema.field("prediction").type))
        .append_column("chance", pa.array([one.chance for one in told], pa.float64()))
        .append_column("hard", pa.array([one.hard for one in told], pa.bool_()))
    )
