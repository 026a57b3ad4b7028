"""The effective label of each sample, from its original label, imported labels and human review.

The latest review (`why` = "review") overrides everything, also with null: "none of our labels fits". Otherwise the
majority of the original and the imported labels counts, with one vote per annotator (the latest). A tie keeps the
original label. The whole label set of a multi-label sample is one vote. N is the number of samples.
"""

from collections import Counter
from collections.abc import Collection
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.common.errors import DataError
from tasks.common.schemas import ANNOTATIONS, label_type
from tasks.dataset.shards import batches, read_task


def read_annotations(data: Path, tombstones: Collection[str] = ()) -> pa.Table:
    """All annotations of batches that are not tombstoned, in ingest order: ANNOTATIONS and `label`.

    Raises DataError when a file that a batch lists is missing.
    """
    schema = ANNOTATIONS.insert(1, pa.field("label", label_type(read_task(data))))
    tables, seen = [schema.empty_table()], set()
    for batch in batches(data):
        for name in batch.annotations if batch.batch not in tombstones else ():
            file = data / "annotations" / name
            if not file.is_file():
                raise DataError(f"{file} is missing, but batch {batch.batch} lists it: restore it with `dvc checkout`")
            if name not in seen:
                seen.add(name)
                tables.append(pq.read_table(file).select(schema.names).cast(schema))
    return pa.concat_tables(tables)


def effective_labels(ids: pa.ChunkedArray, labels: pa.ChunkedArray, annotations: pa.Table) -> pa.ChunkedArray:
    """The effective labels, (N,), of samples `ids` with original `labels`; class names in Unicode's form NFC."""
    labels = composed(labels)
    annotations = annotations.filter(pc.is_in(annotations.column("id"), ids.combine_chunks()))
    if annotations.num_rows == 0:
        return labels
    at = annotations.column_names.index("label")
    annotations = annotations.set_column(at, "label", composed(annotations.column("label")))
    by_id: dict[str, list[dict]] = {}
    for row in annotations.to_pylist():
        by_id.setdefault(row["id"], []).append(row)
    names = pa.array(list(by_id), pa.string())
    rows = pc.index_in(names, ids.combine_chunks()).to_numpy()
    settled = [
        decide_label(label, by_id[name])
        for name, label in zip(names.to_pylist(), labels.take(pa.array(rows)).to_pylist(), strict=True)
    ]
    index = np.arange(len(labels))
    index[rows] = len(labels) + np.arange(len(rows))
    both = pa.chunked_array([*labels.chunks, pa.array(settled, labels.type)])
    return both.take(pa.array(index))


def composed(labels: pa.ChunkedArray) -> pa.ChunkedArray:
    """`labels` (N,), strings or lists of them, in Unicode's form NFC: earlier ingests took the form as it came."""
    if pa.types.is_string(labels.type):
        return pc.utf8_normalize(labels, "NFC")
    whole = labels.combine_chunks()
    values = pc.utf8_normalize(whole.flatten(), "NFC")
    lengths = pc.fill_null(pc.list_value_length(whole), 0).to_numpy()
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
    mask = pc.is_null(whole) if whole.null_count else None
    return pa.chunked_array([pa.ListArray.from_arrays(offsets, values, type=labels.type, mask=mask)])


def decide_label(original: str | list[str] | None, rows: list[dict]) -> str | list[str] | None:
    """The effective label of one sample, from its original label and its annotations in ingest order."""
    rows = sorted(rows, key=lambda row: (row["at"] is not None, row["at"]))  # stable: equal times in ingest order
    reviews = [row for row in rows if row["why"] == "review"]
    if reviews:
        return reviews[-1]["label"]
    votes = {row["annotator"] or number: row["label"] for number, row in enumerate(rows)}
    # where its annotator has a name, ingest also records the original label as a vote: count it once
    named = any(row["annotator"] and _same(row["label"], original) for row in rows)
    ballots = [*votes.values()] if named else [original, *votes.values()]
    count = Counter(_ballot(label) for label in ballots if label is not None)
    if not count:
        return None
    best = max(count.values())
    winners = [ballot for ballot in count if count[ballot] == best]  # in order of first mention, original first
    chosen = _ballot(original) if original is not None and _ballot(original) in winners else winners[0]
    return list(chosen) if isinstance(chosen, tuple) else chosen


def _same(a: str | list[str] | None, b: str | list[str] | None) -> bool:
    return a is not None and b is not None and _ballot(a) == _ballot(b)


def _ballot(label: str | list[str]) -> str | tuple[str, ...]:
    return label if isinstance(label, str) else tuple(sorted(set(label)))
