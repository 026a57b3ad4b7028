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
from tasks.common.params import load_params
from tasks.common.paths import main_checkout
from tasks.dataset.shards import read_tombstones
from tasks.inference.thresholds import Rule, read_rule
from tasks.labels.effective import effective_samples
from tasks.labels.reading import Label, names_of
from tasks.labels.taxonomy import Taxonomy, read_taxonomy
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
    now = as_answers(now, table["label"], about["classes"], read_taxonomy(root / "data"))
    return compare(table, now, about["classes"], read_rule(about))


def present_labels(root: Path, ids: pa.ChunkedArray) -> pa.ChunkedArray:
    """(N,) the labels that count today for the images `ids`; null: none, or the image is not to be used."""
    data, method = root / "data", load_params(root / "params.yaml").labels.consensus
    samples = effective_samples(data, read_taxonomy(data), read_tombstones(root), method)
    return samples["label"].take(pc.index_in(ids, samples["id"].combine_chunks()))


def as_answers(now: pa.ChunkedArray, then: pa.ChunkedArray, classes: list[str], taxonomy: Taxonomy) -> pa.ChunkedArray:
    """The labels `now` (N,) in the names of a version's `classes`; null where these cannot express one.

    A part of a class is read as the class. Where classes were merged since, the label of `then` (N,) stands, unless it
    is of another class today.
    """
    own = {name: taxonomy.atoms(name) for name in classes}

    def read(name: str, before: list[str]) -> str | None:
        atoms = taxonomy.atoms(name)
        found = [one for one, whole in own.items() if atoms <= whole]
        found = found or [one for one in before if one in own and own[one] <= atoms]
        return found[0] if found else None

    def whole(label: Label, before: Label) -> Label:
        named = [read(name, names_of(before)) for name in names_of(label)]
        if label is None or None in named:
            return None
        return named[0] if isinstance(label, str) else sorted(set(named))

    pairs = zip(now.to_pylist(), then.to_pylist(), strict=True)
    return pa.chunked_array([pa.array([whole(*pair) for pair in pairs], now.type)])


def compare(
    table: pa.Table, now: pa.ChunkedArray, classes: list[str], rule: Rule
) -> dict[str, tuple[float | None, float | None]]:
    """See `rejudged`. table: N predictions (predictions_schema); now: (N,) labels of today."""
    found = {}
    for split in SPLITS:
        here = np.array(table["split"].to_pylist()) == split
        sides = [
            _figures(table.filter(pa.array(here)), labels.filter(pa.array(here)), classes, rule)
            for labels in (table["label"], now)
        ]
        for name in FIGURES:
            then, today = (side.get(name) for side in sides)
            if then != today:
                found[f"{split}.{name}"] = (then, today)
    return found


def _figures(table: pa.Table, labels: pa.ChunkedArray, classes: list[str], rule: Rule) -> dict:
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
    targets = encode(labels.filter(pa.array(usable)), classes, rule.task)
    probabilities = np.array(table["probabilities"].to_pylist(), np.float32)[usable]
    return overall(targets, probabilities, rule)
