"""The samples of a data set with the label that counts for each, without running a stage."""

from collections.abc import Collection
from pathlib import Path

import numpy as np
import pyarrow as pa

from tasks.common.class_names import composed
from tasks.common.schemas import label_type
from tasks.dataset.shards import live_shards, read_columns, read_task
from tasks.labels.agreed import Method
from tasks.labels.annotations import effective_labels, read_annotations
from tasks.labels.taxonomy import Taxonomy


def effective_samples(
    data: Path, taxonomy: Taxonomy, tombstones: Collection[str] = (), method: Method = "majority"
) -> pa.Table:
    """id, label, split, shard, row of every live sample: the label that counts, in the names of `taxonomy`.

    An image that two batches have is listed once. `label` is null where there is none, or where people excluded it.
    method: how annotators who differ are settled (labels.consensus).
    """
    table = first_labels(data, tombstones)
    labels = effective_labels(table["id"], table["label"], read_annotations(data, tombstones), taxonomy, method)
    return table.set_column(1, "label", labels)


def first_labels(data: Path, tombstones: Collection[str] = ()) -> pa.Table:
    """id, label, split, shard, row of every live sample, each image once: the label as first given."""
    schema = pa.schema(
        [
            ("id", pa.string()),
            ("label", label_type(read_task(data))),
            ("split", pa.string()),
            ("shard", pa.string()),
            ("row", pa.int32()),
        ]
    )
    parts = [schema.empty_table()]
    for shard in live_shards(data, tombstones):
        rows = read_columns(shard.path, ["id", "label", "split"])
        rows = rows.append_column("shard", pa.repeat(shard.name, len(rows)))
        parts.append(rows.append_column("row", pa.array(np.arange(len(rows), dtype=np.int32))).cast(schema))
    table = pa.concat_tables(parts)
    ids = np.array(table["id"].to_pylist(), str)
    table = table.take(pa.array(np.sort(np.unique(ids, return_index=True)[1])))
    return table.set_column(1, "label", composed(table["label"]))
