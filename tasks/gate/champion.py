"""Runs the champion's own exported model on the challenger's samples: predictions and metrics."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.common.code import code_version
from tasks.common.files import atomic_path, content_key, read_json, sha256_bytes, write_json
from tasks.common.params import EvaluateParams, ImagesParams, Params
from tasks.common.paths import cache_dir
from tasks.common.schemas import predictions_schema
from tasks.dataset.pixels import pixel_table
from tasks.inference import ood
from tasks.inference.onnx_model import OnnxModel
from tasks.inference.thresholds import answers
from tasks.releases.bundle import digest, read, verify
from tasks.scoring.skill import Skill
from tasks.scoring.targets import encode
from tasks.stages.evaluate.figures import Results
from tasks.stages.evaluate.stage import corrupted


def champion_metrics(
    root: Path, bundle_dir: Path, predictions: pa.Table, *, classes: list[str], evaluate: EvaluateParams
) -> dict:
    """{thresholds, corruptions} of the bundle in `bundle_dir`: the champion's metrics for tasks.gate.judge.

    `predictions` are the champion's, with probabilities in the order of `classes`. The champion's own preprocessing
    is used.
    """
    about = read(bundle_dir)
    test = predictions.filter(pc.equal(predictions["split"], "test"))
    ids = test["id"].to_pylist()
    accepted = pq.read_table(root / "artifacts/validate/accepted.parquet", columns=["id", "shard", "row"])
    samples = accepted.take(pc.index_in(test["id"], accepted["id"].combine_chunks()))
    pixels = pixel_table(root, samples, ImagesParams(**about["preprocess"]))
    thresholds = np.array([about["thresholds"].get(name, np.inf) for name in classes])
    targets = encode(test["label"], classes, about["task"])
    probabilities = np.array(test["probabilities"].to_pylist(), np.float32)
    predicted = answers(probabilities, thresholds, about["task"])
    known = Results(classes, about["task"], thresholds, targets, probabilities, predicted)
    model = OnnxModel(bundle_dir / "model.onnx")

    def predict(block: np.ndarray) -> np.ndarray:
        return align(model(block).probabilities, about["classes"], classes)

    return {"thresholds": about["thresholds"], "corruptions": corrupted(predict, pixels, ids, known, evaluate)}


def align(probabilities: np.ndarray, own: Sequence[str], classes: Sequence[str]) -> np.ndarray:
    """(N, K): columns of a model with the classes `own`, in the order of `classes`; 0 for a class it does not know."""
    out = np.zeros((len(probabilities), len(classes)), probabilities.dtype)
    place = {name: column for column, name in enumerate(own)}
    for column, name in enumerate(classes):
        if name in place:
            out[:, column] = probabilities[:, place[name]]
    return out


def champion_evidence(
    root: Path, bundle: Path, challenger: pa.Table, classes: list[str], params: Params
) -> tuple[pa.Table, dict]:
    """(predictions, metrics) of the champion in `bundle` on the samples of `challenger` (predictions_schema).

    The champion's own preprocessing is used. Its class columns are put in the order of `classes`; a class that it does
    not know gets probability 0. Cached by bundle, samples and params.evaluate, so judging again costs nothing.
    """
    layout = str(predictions_schema(params.data.task))
    code = code_version("tasks.gate.champion")
    asked = [challenger.column("id").to_pylist(), classes, params.evaluate.model_dump(), layout, code]
    file = cache_dir("champion", root) / f"{content_key(digest(bundle), *asked)}.parquet"
    metrics = file.with_suffix(".json")
    if not metrics.is_file():  # written last
        table = _predictions(root, bundle, challenger, classes, params.data.task)
        with atomic_path(file) as temporary:
            pq.write_table(table, temporary)
        write_json(metrics, champion_metrics(root, bundle, table, classes=classes, evaluate=params.evaluate))
    return pq.read_table(file), read_json(metrics)


def _predictions(root: Path, bundle: Path, challenger: pa.Table, classes: list[str], task: str) -> pa.Table:
    verify(bundle)
    about, model = read(bundle), OnnxModel(bundle / "model.onnx")
    tensors = ood.read_tensors(bundle / "ood.safetensors")
    accepted = pq.read_table(root / "artifacts/validate/accepted.parquet", columns=["id", "shard", "row"])
    samples = accepted.take(pc.index_in(challenger["id"], accepted["id"].combine_chunks()))
    pixels = pixel_table(root, samples, ImagesParams(**about["preprocess"]))
    probabilities, scores = [], []
    for _, block in pixels.batches(256):
        outputs = model(block)
        probabilities.append(align(outputs.probabilities, about["classes"], classes))
        scores.append(ood.score(outputs.features, outputs.logits, about["ood"], tensors))
    columns = {name: challenger[name] for name in challenger.column_names}
    for field in predictions_schema(task):  # a run before an upgrade
        columns.setdefault(field.name, pa.nulls(len(challenger), field.type))
    columns["probabilities"] = pa.array(list(np.concatenate(probabilities)), pa.list_(pa.float32()))
    columns["ood"] = pa.array(np.concatenate(scores), pa.float32())
    return pa.table(columns, schema=predictions_schema(task))


def hard_set_version(predictions: pa.Table) -> str | None:
    """The hard set's name, a hash of its content; None if there is no hard set."""
    ids = predictions.filter(pc.equal(predictions["split"], "hard")).column("id").to_pylist()
    return f"hard-{sha256_bytes(''.join(sorted(ids)).encode())[:12]}" if ids else None


def calibration_skill(root: Path) -> Skill | None:
    """The challenger's skill on the calibration split, as `calibrate` measured it; None if it did not."""
    file = root / "metrics/calibrate.json"
    found = read_json(file).get("skill") if file.is_file() else None
    return Skill(**found) if found else None


def train_counts(root: Path, classes: list[str]) -> dict[str, int]:
    """Training images of each class, after cleaning."""
    cleaned = pq.read_table(root / "artifacts/clean/labels.parquet", columns=["split", "label", "action"])
    trained = cleaned.filter(pc.and_(pc.equal(cleaned["split"], "train"), pc.not_equal(cleaned["action"], "drop")))
    labels = trained.column("label").combine_chunks()
    names = labels.flatten() if pa.types.is_list(labels.type) else labels
    counts = {entry["values"]: entry["counts"] for entry in pc.value_counts(names).to_pylist()}
    return {name: counts.get(name, 0) for name in classes}
