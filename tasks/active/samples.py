"""The images of data/ as picks need them: labels that count, splits, places, features."""

from collections.abc import Collection
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tasks.common.class_names import composed
from tasks.common.params import Params
from tasks.common.schemas import label_type
from tasks.dataset.shard_table import ShardTable
from tasks.dataset.shards import live_shards, read_columns, read_task, read_tombstones, shard_groups
from tasks.inspection.measures import shard_measures
from tasks.labels.annotations import decide_all, read_annotations, replaced
from tasks.labels.reading import read_column
from tasks.labels.taxonomy import read_taxonomy
from tasks.models.pretrained import pretrained_features

GIVEN = ("id", "label", "source", "split", "taken_at")


def live_samples(root: Path, params: Params, tombstones: Collection[str] | None = None) -> pa.Table:
    """The readable images of data/, each once: GIVEN (`label`: what counts now), group, phash, shard, row.

    Images of tombstoned batches (None: those of tombstones.json) and images that people excluded are left out. The
    group is the recorded one, else the perceptual hash, so that copies of an image share one.
    """
    data = root / "data"
    tombstones = read_tombstones(root) if tombstones is None else tombstones
    parts = []
    for shard in live_shards(data, tombstones):
        measures = shard_measures(root, shard.name, params.images, params.inspect)
        part = read_columns(shard.path, GIVEN)
        part = part.append_column("group", shard_groups(shard.path))
        part = part.append_column("phash", measures["phash"])
        part = part.append_column("shard", pa.repeat(shard.name, len(part)))
        part = part.append_column("row", pa.array(np.arange(len(part), dtype=np.int32)))
        parts.append(part.filter(pc.equal(measures["status"], "ok")))
    if not parts:
        schema = pa.schema([(name, pa.string()) for name in GIVEN])
        return schema.set(1, pa.field("label", label_type(read_task(data)))).empty_table()
    table = pa.concat_tables(parts)
    codes = table["id"].combine_chunks().dictionary_encode().indices.to_numpy()
    table = table.take(pa.array(np.sort(np.unique(codes, return_index=True)[1])))
    taxonomy, annotations = read_taxonomy(data), read_annotations(data, tombstones)
    decisions = decide_all(table["id"], table["label"], annotations, taxonomy, params.labels.consensus)
    labels = replaced(read_column(composed(table["label"]), taxonomy), decisions)
    groups = pc.coalesce(table["group"], table["phash"].cast(pa.string()))
    table = table.set_column(1, "label", labels).set_column(table.column_names.index("group"), "group", groups)
    excluded = [row for row, decision in decisions.items() if decision.excluded]
    return table.filter(pa.array(~np.isin(np.arange(len(table)), excluded)))


def of_split(samples: pa.Table, split: str, labelled: bool) -> pa.Table:
    """The rows of `samples` in `split` that have a label, or that have none."""
    has = pc.is_valid(samples["label"])
    return samples.filter(pc.and_(pc.equal(samples["split"], split), has if labelled else pc.invert(has)))


def features_of(root: Path, samples: pa.Table, params: Params) -> ShardTable:
    """(N, D) features of `samples` by the frozen pretrained network, computed once per image."""
    return pretrained_features(root, samples, embed=params.embed, images=params.images)


def class_names(labels: pa.ChunkedArray) -> list[str]:
    """The classes among `labels`, sorted."""
    names = labels if pa.types.is_string(labels.type) else pc.list_flatten(labels)
    return sorted(names.unique().drop_null().to_pylist())
