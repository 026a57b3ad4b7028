"""A version's figures as they were judged, and as its stored answers are judged by today's labels."""

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from flows.publishing.history import open_project
from flows.repo.objects import ObjectLost, Objects, open_objects, outs_at
from tasks.common.class_names import composed
from tasks.common.paths import main_checkout
from tasks.dataset.shards import live_shards, read_columns, read_tombstones
from tasks.labels.annotations import effective_labels, read_annotations
from tasks.scoring.targets import encode
from tasks.stages.evaluate.figures import overall

FIGURES = ("accuracy", "balanced_accuracy", "macro_f1", "micro_f1")
SPLITS = ("test", "hard")


def rejudge_versions(root: Path, names: list[str]) -> dict[str, dict[str, tuple[float | None, float | None]]]:
    """`rejudged` of each version of `names`, by the labels in data/; empty where data/ is not here."""
    if not (root / "data" / "dataset.json").is_file():
        return {}
    _, releases = open_project(root)
    revs = {pointer.version: pointer.git_rev for pointer in releases.history()}
    found, main = {}, main_checkout(root)
    with open_objects(main) as objects:
        for name in names:
            try:
                found[name] = rejudged(main, objects, revs[name]) if name in revs else {}
            except ObjectLost:  # `evergreen diff` says what cannot be read
                continue
    return {name: figures for name, figures in found.items() if figures}


def rejudged(root: Path, objects: Objects, rev: str) -> dict[str, tuple[float | None, float | None]]:
    """Figure, such as test.balanced_accuracy -> (by the labels of then, by those of now), where these differ.

    Images that are excluded now, or whose label is not a class of the version, do not count now. Empty if the commit
    `rev` records no predictions. Raises ObjectLost.
    """
    outs = outs_at(root, rev)
    if not {"artifacts/evaluate", "artifacts/calibrate"} <= outs.keys():
        return {}
    files = {out: objects.files(outs[out]) for out in ("artifacts/evaluate", "artifacts/calibrate")}
    about = json.loads(objects.read(files["artifacts/calibrate"]["calibration.json"]))
    table = pq.read_table(io.BytesIO(objects.read(files["artifacts/evaluate"]["predictions.parquet"])))
    now = present_labels(root, table["id"])
    return compare(table, now, about["classes"], about["task"], about["thresholds"])


def present_labels(root: Path, ids: pa.ChunkedArray) -> pa.ChunkedArray:
    """(N,) the labels that count today for the images `ids`; null: none, or the image is not to be used."""
    data, stones = root / "data", read_tombstones(root)
    tables = [read_columns(shard.path, ["id", "label"]) for shard in live_shards(data, stones)]
    samples = pa.concat_tables(tables)
    place = pc.index_in(ids, samples["id"].combine_chunks())
    first = composed(samples["label"]).take(place)
    return effective_labels(ids, first, read_annotations(data, stones))


def compare(
    table: pa.Table, now: pa.ChunkedArray, classes: list[str], task: str, thresholds: dict[str, float]
) -> dict[str, tuple[float | None, float | None]]:
    """See `rejudged`. table: N predictions (predictions_schema); now: (N,) labels of today."""
    found = {}
    for split in SPLITS:
        here = np.array(table["split"].to_pylist()) == split
        sides = [
            _figures(table.filter(pa.array(here)), labels.filter(pa.array(here)), classes, task, thresholds)
            for labels in (table["label"], now)
        ]
        for name in FIGURES:
            then, today = (side.get(name) for side in sides)
            if then != today:
                found[f"{split}.{name}"] = (then, today)
    return found


def _figures(
    table: pa.Table, labels: pa.ChunkedArray, classes: list[str], task: str, thresholds: dict[str, float]
) -> dict:
    known = set(classes)
    usable = np.array(
        [
            label is not None and known.issuperset([label] if isinstance(label, str) else label)
            for label in labels.to_pylist()
        ],
        bool,
    )
    if not usable.any():
        return {}
    targets = encode(labels.filter(pa.array(usable)), classes, task)
    probabilities = np.array(table["probabilities"].to_pylist(), np.float32)[usable]
    return overall(targets, probabilities, np.array([thresholds[name] for name in classes]), task)
