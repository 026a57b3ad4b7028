"""The effective label of each sample, from its original label and what people said about it since.

Annotations are only ever added. A reviewer's newest word overrides everything. Otherwise the votes count: the original
label and the newest label of each annotator (tasks.labels.votes). The whole label set of a multi-label sample is one
vote. A retraction names an annotation that no longer counts; a retraction can be retracted, too. N is the number of
samples.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.common.class_names import composed
from tasks.common.errors import DataError
from tasks.common.files import content_key
from tasks.common.schemas import annotation_schema
from tasks.common.verified import read_named
from tasks.dataset.shards import batches, counted_annotations, read_task
from tasks.labels.agreed import Method, agree
from tasks.labels.reading import read_column, read_votes
from tasks.labels.taxonomy import UNCHANGED, Taxonomy
from tasks.labels.votes import EXCLUDE, ballot, majority, named_ballots, newest_votes

Label = str | list[str] | None
AGREEING = 2  # so many annotators who agree confirm a label
KEYED = ("id", "label", "exclude", "annotator", "role", "why", "batch", "model_version", "retracts")


@dataclass(frozen=True, slots=True)
class Decision:
    """What counts for one sample, and why."""

    label: Label  # null where excluded
    excluded: bool
    rule: str  # "first given", "reviewer" or "votes"
    deciding: list[dict] = field(default_factory=list)  # the annotations that decided
    confirmed: int | None = None  # a reviewer, or AGREEING annotators, gave this label: number of that batch
    disputed: str | None = None  # what an annotator said against a confirmed label since


def read_annotations(data: Path, tombstones: Collection[str] = ()) -> pa.Table:
    """All annotations of batches that are not tombstoned, in the order in which they were taken.

    annotation_schema and `seq`, the number of their batch. Raises DataError when a file that a batch lists is missing,
    and DamagedFile when it is not named by its content.
    """
    schema = annotation_schema(read_task(data))
    listed = [(batch.seq, batch.batch, batch.annotations) for batch in batches(data)]
    listed += [(batch.seq, batch.batch, batch.files) for batch in counted_annotations(data)]
    tables, seen = [schema.empty_table().append_column("seq", pa.array([], pa.int32()))], set()
    for seq, batch, names in sorted(listed):
        for name in names if batch not in tombstones else ():
            file = data / "annotations" / name
            if not file.is_file():
                raise DataError(f"{file} is missing, but batch {batch} lists it: restore it with `dvc checkout`")
            if name not in seen:
                seen.add(name)
                table = pq.read_table(pa.BufferReader(read_named(file)))
                table = _present_columns(table, batch).select(schema.names).cast(schema)
                tables.append(table.append_column("seq", pa.array(np.full(len(table), seq, np.int32))))
    return pa.concat_tables(tables)


def _present_columns(table: pa.Table, batch: str) -> pa.Table:
    """`table` with the columns of today. Before version 3, `why` said what is the role now."""
    if "role" in table.column_names:
        return table
    review = pc.fill_null(pc.equal(table["why"], "review"), False)
    count = len(table)
    return pa.table(
        {
            **{name: table[name] for name in ("id", "label", "annotator", "at", "model_version")},
            "exclude": pc.and_(review, pc.is_null(table["label"])),
            "role": pc.if_else(review, "reviewer", "import"),
            "why": pa.array([""] * count, pa.string()),
            "batch": pa.array([batch] * count, pa.string()),
            "retracts": pa.nulls(count, pa.string()),
        }
    )


def annotation_key(row: dict) -> str:
    """The name of an annotation, which a retraction gives: a hash of its content."""
    return content_key([str(row["at"]), *(row[name] for name in KEYED)])[:32]


def standing(rows: Sequence[dict]) -> list[dict]:
    """The annotations among `rows` that count, without retractions and what these retract, in the same order."""
    gone = retracted_keys(rows)
    return [row for row in rows if not row["retracts"] and (not gone or annotation_key(row) not in gone)]


def retracted_keys(rows: Sequence[dict]) -> set[str]:
    """Keys of the annotations, and of the retractions, that no longer count."""
    by: dict[str, list[str]] = {}  # key -> keys of its retractions
    for row in rows:
        if row["retracts"]:
            by.setdefault(row["retracts"], []).append(annotation_key(row))

    def retracted(key: str) -> bool:
        return any(not retracted(other) for other in by.get(key, ()))

    return {key for key in by if retracted(key)}


def by_sample(annotations: pa.Table) -> dict[str, list[dict]]:
    """Id -> its annotations, in the order of the table; class names in Unicode's form NFC."""
    at = annotations.column_names.index("label")
    annotations = annotations.set_column(at, "label", composed(annotations.column("label")))
    found: dict[str, list[dict]] = {}
    for row in annotations.to_pylist():
        found.setdefault(row["id"], []).append(row)
    return found


def decide_all(
    ids: pa.ChunkedArray,
    labels: pa.ChunkedArray,
    annotations: pa.Table,
    taxonomy: Taxonomy = UNCHANGED,
    method: Method = "majority",
) -> dict[int, Decision]:
    """Row -> the decision about it, for each of the N samples that has an annotation. `labels`: as first given.

    taxonomy: reads the names of all labels. method: how annotators who differ are settled (tasks.labels.agreed), where
    no reviewer has decided.
    """
    annotations = annotations.filter(pc.is_in(annotations.column("id"), ids.combine_chunks()))
    if annotations.num_rows == 0:
        return {}
    said = by_sample(annotations)
    rows = pc.index_in(pa.array(list(said), pa.string()), ids.combine_chunks()).to_numpy()
    first = composed(labels).take(pa.array(rows)).to_pylist()
    votes = [read_votes(label, standing(of), taxonomy) for label, of in zip(first, said.values(), strict=True)]
    found = [decide(*one) for one in votes]
    if method != "majority":
        found = _by_consensus(found, votes, method)
    return {int(row): decision for row, decision in zip(rows, found, strict=True)}


def _by_consensus(found: list[Decision], votes: list[tuple[Label, list[dict]]], method: Method) -> list[Decision]:
    """`found` with the labels that votes decided settled by `method`, which looks at all of them together.

    votes: of each sample, the label first given and the standing annotations.
    """
    open_ = [n for n, decision in enumerate(found) if decision.rule == "votes" and decision.label is not None]
    ballots = [named_ballots(votes[number][0], _in_time(votes[number][1])) for number in open_]
    firsts = [ballot(votes[number][0]) for number in open_]
    for number, chosen in zip(open_, agree(ballots, firsts, method), strict=True):
        if chosen != ballot(found[number].label):
            label = list(chosen) if isinstance(chosen, tuple) else chosen
            found[number] = decide(*votes[number], label)
    return found


def effective_labels(
    ids: pa.ChunkedArray,
    labels: pa.ChunkedArray,
    annotations: pa.Table,
    taxonomy: Taxonomy = UNCHANGED,
    method: Method = "majority",
) -> pa.ChunkedArray:
    """The effective labels, (N,), of samples `ids` with original `labels`; null where a sample is excluded."""
    return replaced(read_column(composed(labels), taxonomy), decide_all(ids, labels, annotations, taxonomy, method))


def replaced(labels: pa.ChunkedArray, decisions: dict[int, Decision]) -> pa.ChunkedArray:
    """`labels` (N,) with those that were decided."""
    if not decisions:
        return labels
    rows = np.fromiter(decisions, np.int64, len(decisions))
    index = np.arange(len(labels))
    index[rows] = len(labels) + np.arange(len(rows))
    settled = pa.array([decision.label for decision in decisions.values()], labels.type)
    return pa.chunked_array([*labels.chunks, settled]).take(pa.array(index))


def decide(original: Label, rows: Sequence[dict], consensus: Label = None) -> Decision:
    """What counts for one sample, from its original label and its annotations in the order they were taken.

    consensus: the label that the votes give, if it is not that of the majority.
    """
    rows = _in_time(standing(rows))
    if not rows:
        return Decision(original, False, "first given")
    reviews = [row for row in rows if row["role"] == "reviewer"]
    if reviews:
        last = reviews[-1]
        if last["exclude"]:
            return Decision(None, True, "reviewer", [last])
        since = [row for row in rows if row["seq"] > last["seq"] and row["role"] != "reviewer"]
        return Decision(last["label"], False, "reviewer", [last], last["seq"], _against(last["label"], since))
    chosen = majority(original, rows) if consensus is None else consensus
    if chosen is EXCLUDE:
        return Decision(None, True, "votes", [row for row in newest_votes(rows) if row["exclude"]])
    agreeing = [row for row in newest_votes(rows) if _same(row["label"], chosen)]
    named = sorted(row["seq"] for row in agreeing if row["annotator"])
    confirmed = named[AGREEING - 1] if len(named) >= AGREEING else None
    since = [row for row in rows if confirmed is not None and row["seq"] > confirmed]
    return Decision(chosen, False, "votes", agreeing, confirmed, _against(chosen, since))


def newest_words(rows: Sequence[dict]) -> list[dict]:
    """The annotations among `rows` that no newer word of the same person, or of a later reviewer, replaces."""
    rows = _in_time(standing(rows))
    reviews = [row for row in rows if row["role"] == "reviewer"]
    return [*newest_votes([row for row in rows if row["role"] != "reviewer"]), *reviews[-1:]]


def _in_time(rows: Sequence[dict]) -> list[dict]:
    return sorted(rows, key=lambda row: (row["at"] is not None, row["at"]))  # stable: equal times as taken


def decide_label(original: Label, rows: Sequence[dict]) -> Label:
    """The effective label of one sample, see `decide`."""
    return decide(original, rows).label


def _against(label: Label, rows: list[dict]) -> str | None:
    """Who said something else than `label` in `rows`."""
    other = [row for row in rows if row["exclude"] or not _same(row["label"], label)]
    said = (f"{row['annotator'] or 'an import'} said {'exclude' if row['exclude'] else row['label']}" for row in other)
    return "; ".join(said) or None


def _same(a: Label, b: Label) -> bool:
    return a is not None and b is not None and ballot(a) == ballot(b)
