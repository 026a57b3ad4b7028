"""Runs the champion's own exported model on the challenger's samples: predictions and metrics."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.common.artifacts import training_rows
from tasks.common.code import code_version
from tasks.common.cores import on_all_cores
from tasks.common.files import content_key, read_json
from tasks.common.params import EvaluateParams, ImagesParams, Params
from tasks.common.paths import cache_dir
from tasks.common.schemas import predictions_schema
from tasks.common.sealed import read_sealed, sealed_path, write_sealed_json
from tasks.dataset.hard_set import version_of
from tasks.dataset.pixels import pixel_table
from tasks.gate.alignment import Alignment, alignment
from tasks.inference.onnx_model import BATCH, OnnxModel
from tasks.inference.ood import scores as ood
from tasks.inference.thresholds import answers, make_rule, read_rule
from tasks.labels.taxonomy import Taxonomy, read_taxonomy
from tasks.releases.bundle import digest, read, verify
from tasks.scoring.skill import Skill
from tasks.scoring.targets import encode
from tasks.stages.evaluate.corrupted import corrupted
from tasks.stages.evaluate.corrupted_answers import CorruptedAnswers
from tasks.stages.evaluate.figures import Results


def champion_metrics(
    root: Path,
    bundle_dir: Path,
    predictions: pa.Table,
    *,
    classes: list[str],
    evaluate: EvaluateParams,
    taxonomy: Taxonomy | None = None,
) -> dict:
    """{thresholds, weights, corruptions} of the bundle in `bundle_dir`: the champion's metrics for tasks.gate.judge.

    `predictions` are the champion's, with probabilities in the order of `classes`. The champion's own preprocessing
    is used. Where one of its classes was split, the run's own model says of each corrupted image which part is likelier
    (see alignment); if the two models see images in another size, corruptions cannot be compared and are left out.
    """
    about = read(bundle_dir)
    placed = alignment(about["classes"], classes, taxonomy or Taxonomy())
    decides = {
        "thresholds": placed.thresholds(about["thresholds"]),
        "weights": placed.weights(about.get("weights") or {}),
    }
    challenger = root / "artifacts/bundle"
    if placed.divided and ImagesParams(**read(challenger)["preprocess"]) != ImagesParams(**about["preprocess"]):
        return decides | {"corruptions": {}}
    own = corrupted_answers(root, bundle_dir, predictions)
    test = predictions.filter(pc.equal(predictions["split"], "test"))
    rule = make_rule(about["task"], classes, decides["thresholds"], decides["weights"])
    targets = encode(test["label"], classes, about["task"])
    probabilities = np.array(test["probabilities"].to_pylist(), np.float32)
    known = Results(classes, about["task"], rule, targets, probabilities, answers(probabilities, rule))
    new, weights = None, None
    if placed.divided:
        new, weights = replace(own, model=challenger / "model.onnx"), _challenger_weights(root)

    def answered(corruption: str, rows: np.ndarray) -> np.ndarray:
        said = None if new is None else new(corruption, rows) * weights
        return placed.columns(own(corruption, rows), about["task"], about["thresholds"], said)

    return decides | {"corruptions": corrupted(answered, own.ids, known, evaluate)}


def corrupted_answers(root: Path, bundle_dir: Path, predictions: pa.Table) -> CorruptedAnswers:
    """What the model of the bundle answers for the test images of `predictions`, corrupted."""
    ids = predictions.filter(pc.equal(predictions["split"], "test"))["id"]
    accepted = pq.read_table(root / "artifacts/validate/accepted.parquet", columns=["id", "shard", "row"])
    samples = accepted.take(pc.index_in(ids, accepted["id"].combine_chunks()))
    images = ImagesParams(**read(bundle_dir)["preprocess"])
    pixels = pixel_table(root, samples, images)
    return CorruptedAnswers(root, bundle_dir / "model.onnx", images, pixels, ids.to_pylist())


def _challenger_weights(root: Path) -> np.ndarray:
    """(K,) what the challenger multiplies its probabilities with: its answer is the class with the largest product."""
    return read_rule(read(root / "artifacts/bundle")).weights


def champion_evidence(
    root: Path, bundle: Path, challenger: pa.Table, classes: list[str], params: Params
) -> tuple[pa.Table, dict]:
    """(predictions, metrics) of the champion in `bundle` on the samples of `challenger` (predictions_schema).

    The champion's own preprocessing is used. Its classes are read through the taxonomy (tasks.gate.alignment); a class
    that it does not know gets probability 0. Cached by bundle, samples, their labels and params.evaluate, so judging
    again costs nothing, and a corrected label counts for both models.
    """
    layout = str(predictions_schema(params.data.task))
    code = code_version("tasks.gate.champion")
    taxonomy = read_taxonomy(root / "data")
    placed = alignment(read(bundle)["classes"], classes, taxonomy)
    samples = [challenger.column(name).to_pylist() for name in ("id", "label")]
    asked = [*samples, classes, params.evaluate.model_dump(), layout, code, placed.places]
    if placed.divided:
        asked += [content_key(challenger["probabilities"].to_pylist()), _challenger_weights(root).tolist()]
    name = content_key(digest(bundle), *asked)
    file, metrics = (cache_dir("champion", root) / f"{name}{end}" for end in (".parquet", "-metrics.json"))
    kept, figures = read_sealed(file), read_sealed(metrics)
    if kept is not None and figures is not None:
        return pq.read_table(pa.BufferReader(kept)), json.loads(figures)
    table = _predictions(root, bundle, challenger, placed, params.data.task)
    with sealed_path(file) as temporary:
        pq.write_table(table, temporary)
    found = champion_metrics(root, bundle, table, classes=classes, evaluate=params.evaluate, taxonomy=taxonomy)
    write_sealed_json(metrics, found)
    return table, found


def _predictions(root: Path, bundle: Path, challenger: pa.Table, placed: Alignment, task: str) -> pa.Table:
    verify(bundle)
    about, model = read(bundle), OnnxModel(bundle / "model.onnx")
    tensors = ood.read_tensors(bundle / "ood.safetensors")
    accepted = pq.read_table(root / "artifacts/validate/accepted.parquet", columns=["id", "shard", "row"])
    samples = accepted.take(pc.index_in(challenger["id"], accepted["id"].combine_chunks()))
    pixels = pixel_table(root, samples, ImagesParams(**about["preprocess"]))

    def answered(block: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        outputs = model(block)
        return outputs.probabilities, ood.score(outputs.features, outputs.logits, about["ood"], tensors)

    blocks = (block for _, block in pixels.batches(BATCH))
    probabilities, scores = zip(*on_all_cores(answered, blocks), strict=True)
    columns = {name: challenger[name] for name in challenger.column_names}
    for field in predictions_schema(task):  # a run before an upgrade
        columns.setdefault(field.name, pa.nulls(len(challenger), field.type))
    said = None
    if placed.divided:
        said = np.array(challenger["probabilities"].to_pylist(), np.float32) * _challenger_weights(root)
    aligned = placed.columns(np.concatenate(probabilities), task, about["thresholds"], said)
    columns["probabilities"] = pa.array(list(aligned), pa.list_(pa.float32()))
    columns["ood"] = pa.array(np.concatenate(scores), pa.float32())
    return pa.table(columns, schema=predictions_schema(task))


def hard_set_version(predictions: pa.Table) -> str | None:
    """The hard set's name, a hash of its content; None if there is no hard set."""
    ids = predictions.filter(pc.equal(predictions["split"], "hard")).column("id").to_pylist()
    return version_of(ids, "hard")


def calibration_skill(root: Path) -> Skill | None:
    """The challenger's skill on the calibration split, as `calibrate` measured it; None if it did not."""
    file = root / "metrics/calibrate.json"
    found = read_json(file).get("skill") if file.is_file() else None
    return Skill(**found) if found else None


def clusters(root: Path, ids: pa.ChunkedArray) -> dict[str, str]:
    """The near-duplicate cluster of each of the images `ids`, as `inspect` found it."""
    inspected = pq.read_table(root / "artifacts/inspect/samples.parquet", columns=["id", "cluster"])
    found = inspected.filter(pc.is_in(inspected["id"], ids.combine_chunks()))
    return dict(zip(found["id"].to_pylist(), found["cluster"].to_pylist(), strict=True))


def train_counts(root: Path, classes: list[str]) -> dict[str, int]:
    """Training images of each class, after cleaning."""
    labels = training_rows(root)["train"]["label"].combine_chunks()
    names = labels.flatten() if pa.types.is_list(labels.type) else labels
    counts = {entry["values"]: entry["counts"] for entry in pc.value_counts(names).to_pylist()}
    return {name: counts.get(name, 0) for name in classes}
