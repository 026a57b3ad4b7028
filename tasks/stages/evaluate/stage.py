"""Stage `evaluate`: measures the *exported* model on images that no stage trained or calibrated on.

    artifacts/evaluate/predictions.parquet  test and hard images, calibrated probabilities (predictions_schema)
    artifacts/evaluate/report.json          every class, confusions, reliability bins, worst mistakes
    artifacts/evaluate/plots/*.png          reliability, confusion, precision_recall, per_class, worst
    artifacts/evaluate/reliability.csv      bins of the reliability diagram, for `dvc plots`
    artifacts/evaluate/confusion.csv        actual, predicted of each test image, for `dvc plots`
    metrics/evaluate.json                   test, skill, people, hard, slices, siblings, later, shots, corruptions,
                                            latency_ms, parity, size_mb, conformal (sets of plausible classes; None: the
                                            bundle has none), cross_validated where the test split is small, and for
                                            multi-label the thresholds the answers were made with

Test and hard images have their given labels: cleaning never changes those. N images, K classes, S the side of the
model's input in pixels.
"""

import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.backbones.frozen import TorchFeatures
from tasks.common import artifacts
from tasks.common.cores import on_all_cores
from tasks.common.errors import DataError, EvergreenError
from tasks.common.files import atomic_dir, read_json, write_json
from tasks.common.params import EmbedParams, EvaluateParams, ImagesParams
from tasks.common.schemas import predictions_schema
from tasks.dataset.decode import PREPROCESS, preprocess
from tasks.dataset.pixels import pixel_table
from tasks.dataset.shard_table import ShardTable
from tasks.dataset.shards import group_keys, iter_bytes
from tasks.inference.onnx_model import BATCH, OnnxModel
from tasks.inference.ood import scores as ood
from tasks.inference.scaling import read_scaling, scale
from tasks.inference.thresholds import answers, read_rule
from tasks.models import stage1
from tasks.models.head import read_head
from tasks.models.pretrained import pretrained_features
from tasks.scoring.calibration_noise import calibration_noise
from tasks.scoring.skill import measure_skill
from tasks.scoring.slices import with_sources
from tasks.scoring.targets import class_counts, encode
from tasks.stages.evaluate import cross_validation, figures, report
from tasks.stages.evaluate.corrupted import corrupted
from tasks.stages.evaluate.corrupted_answers import CorruptedAnswers
from tasks.stages.evaluate.figures import Results
from tasks.stages.evaluate.later import measure_later
from tasks.stages.evaluate.siblings import measure_siblings

PARITY_IMAGES = 32
WARM_UP = 5  # runs before timing starts: the first ones allocate memory


def run(root: Path, *, images: ImagesParams, embed: EmbedParams, evaluate: EvaluateParams) -> None:
    """Write artifacts/evaluate/ and metrics/evaluate.json. Raises DataError without labelled test images."""
    calibration = read_json(artifacts.stage_output(root / "artifacts/calibrate/calibration.json", "calibrate"))
    by_split = artifacts.training_rows(root)

    def parity(model: OnnxModel, pixels: ShardTable) -> dict:
        return _parity(root, model, pixels, by_split["test"], images, calibration)

    def siblings(test: Results) -> dict:
        def features(rows: pa.Table) -> ShardTable:
            return pretrained_features(root, rows, embed=embed, images=images)

        return measure_siblings(root, by_split["test"], by_split["train"], test, features)

    measure(root, by_split, calibration, images, evaluate, parity, siblings)
    if checked := _cross_validated(root, by_split, calibration, images, embed):
        file = root / "metrics/evaluate.json"
        write_json(file, read_json(file) | {"cross_validated": checked})


def _cross_validated(
    root: Path, by_split: dict[str, pa.Table], calibration: dict, images: ImagesParams, embed: EmbedParams
) -> dict | None:
    """See the module cross_validation; None where the test split is large enough."""
    classes, task = calibration["classes"], calibration["task"]
    inspected = artifacts.stage_output(root / "artifacts/inspect/samples.parquet", "inspect")
    samples = pq.read_table(inspected, columns=["id", "cluster", "origin"])
    synthetic = samples.filter(pc.equal(samples["origin"], "synthetic"))["id"]
    rows = pa.concat_tables([by_split[split] for split in ("train", "calibration", "test")])
    rows = rows.filter(pc.invert(pc.is_in(rows["id"], synthetic)))  # nothing is measured on them
    test = encode(by_split["test"]["label"], classes, task)
    if not cross_validation.too_small(test, len(classes), len(rows)):
        return None
    cluster = dict(zip(samples["id"].to_pylist(), samples["cluster"].to_pylist(), strict=True))
    rows = rows.append_column("cluster", pa.array([cluster.get(i) or i for i in rows["id"].to_pylist()]))
    x = pretrained_features(root, rows, embed=embed, images=images)
    found = cross_validation.cross_validated(x, encode(rows["label"], classes, task), classes, group_keys(rows))
    if found["balanced_accuracy"] is not None:
        print(
            f"evaluate: only {len(test)} test images; by cross-validation over {found['groups']} groups, a classifier "
            f"on pretrained features has a balanced accuracy of {found['balanced_accuracy']:.3f} "
            f"({found['low']:.3f} to {found['high']:.3f})"
        )
    return found


def measure(
    root: Path,
    by_split: dict[str, pa.Table],
    calibration: dict,
    images: ImagesParams,
    evaluate: EvaluateParams,
    parity: Callable[[OnnxModel, ShardTable], dict],
    siblings: Callable[[Results], dict] | None = None,
) -> None:
    """What `run` does, for the model under artifacts/calibrate/ whatever made it.

    by_split: of artifacts.training_rows; calibration: calibration.json; parity: (exported model, pixels of the test and
    hard images) -> its difference from the model that was exported; siblings: results of the test images -> figures of
    those with and without a sibling in train, None where the training images are not known.
    """
    classes, task = calibration["classes"], calibration["task"]
    model_file = artifacts.stage_output(root / "artifacts/calibrate/model.onnx", "calibrate")
    if not len(by_split["test"]):
        raise DataError(
            "the test split has no labelled image: label some of it, ingest images of more groups (a group is never "
            "divided between splits), or change data.split in params.yaml and ingest more"
        )
    rows = pa.concat_tables([by_split["test"], by_split["hard"]])
    model = OnnxModel(model_file)
    pixels = pixel_table(root, rows, images)
    probabilities, logits, scores = _predict(root, model, pixels, calibration)
    rule = read_rule(calibration)
    targets = encode(rows["label"], classes, task)
    results = Results(classes, task, rule, targets, probabilities, answers(probabilities, rule))
    test = results.part(np.arange(len(by_split["test"])))
    hard = results.part(np.arange(len(by_split["test"]), len(rows)))
    ids = by_split["test"]["id"].to_pylist()
    train_counts = class_counts(encode(by_split["train"]["label"], classes, task), len(classes))
    table = figures.by_class(
        test.targets,
        test.predicted,
        test.probabilities,
        classes,
        train_counts,
        evaluate.many_shot,
        evaluate.few_shot,
    )
    sets = None
    if about_sets := calibration.get("conformal"):
        sets, table = figures.by_sets(test, about_sets, table)
    groups = by_split["test"]["group"].to_pylist()
    costs = calibration.get("costs") or {}
    overall = figures.overall(test.targets, test.probabilities, rule) | figures.beyond_right(test, costs)
    if overall["debiased_ece"] is not None:
        bins = figures.calibration_bins(len(test.targets))
        overall["ece_noise"] = figures.tidy(calibration_noise(test.probabilities, task, groups, bins))
    skill = measure_skill(test.targets, test.predicted, len(classes), groups)
    found = {
        "test": overall,
        "uncalibrated": figures.uncalibrated(logits[: len(test.targets)], test.targets),
        "skill": figures.tidy(asdict(skill)),
        "people": figures.by_people(test, groups),
        "hard": figures.overall(hard.targets, hard.probabilities, rule) | figures.beyond_right(hard, costs)
        if len(hard.targets)
        else None,
        "slices": figures.by_slice(_slices(by_split["test"]), test.targets, test.predicted, len(classes)),
        "siblings": None if siblings is None else siblings(test),
        "later": measure_later(by_split),
        "shots": figures.by_shot(table),
        "conformal": sets,
        "corruptions": corrupted(CorruptedAnswers(root, model_file, images, pixels, ids), ids, test, evaluate),
        "latency_ms": _latency(root, model, by_split["test"], images, evaluate.latency_runs),
        "parity": parity(model, pixels),
        "size_mb": round(model_file.stat().st_size / 1e6, 3),
    }
    decides = "thresholds" if task == "multilabel" else "weights"  # the gate answers with it
    found[decides] = calibration.get(decides)
    with atomic_dir(root / "artifacts/evaluate") as folder:
        pq.write_table(_predictions(rows, probabilities, scores, task), folder / "predictions.parquet")
        report.write(folder, test, table, found["test"]["debiased_ece"], ids, pixels)
    write_json(root / "metrics/evaluate.json", found)


def _slices(rows: pa.Table) -> list[list[dict]]:
    return with_sources(rows["slice"].to_pylist(), rows["source"].to_pylist())


def _predict(
    root: Path, model: OnnxModel, pixels: ShardTable, calibration: dict
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(probabilities and logits (N, K) float32, scores (N,) of unfamiliar images). Raises EvergreenError if broken."""
    tensors = ood.read_tensors(artifacts.stage_output(root / "artifacts/calibrate/ood.safetensors", "calibrate"))

    def answered(block: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        outputs = model(block)
        unfamiliar = ood.score(outputs.features, outputs.logits, calibration["ood"], tensors)
        return outputs.probabilities, outputs.logits, unfamiliar

    blocks = (block for _, block in pixels.batches(BATCH))
    probabilities, logits, scores = zip(*on_all_cores(answered, blocks), strict=True)
    found = np.concatenate(probabilities)
    if broken := int((~np.isfinite(found)).any(axis=1).sum()):
        raise EvergreenError(
            f"the exported model's probabilities of {broken} of {len(found)} images are not finite: the network "
            "diverged; lower train_backbone.learning_rate and train again"
        )
    return found, np.concatenate(logits), np.concatenate(scores)


def _predictions(rows: pa.Table, probabilities: np.ndarray, scores: np.ndarray, task: str) -> pa.Table:
    schema = predictions_schema(task)
    lists = pa.FixedSizeListArray.from_arrays(pa.array(probabilities.ravel(), pa.float32()), probabilities.shape[1])
    made = {"probabilities": lists.cast(pa.list_(pa.float32())), "ood": pa.array(scores, pa.float32())}
    return pa.table([made[name] if name in made else rows[name] for name in schema.names], schema=schema)


# --- speed, parity -------------------------------------------------------------------------------


def _encoded_images(root: Path, rows: pa.Table, number: int) -> tuple[np.ndarray, list[bytes]]:
    """(places in `rows`, encoded images) of at most `number` rows, evenly spread."""
    places = np.unique(np.linspace(0, len(rows) - 1, min(number, len(rows))).astype(int))
    chosen = rows.select(["shard", "row"]).take(places).to_pylist()
    found = {}
    for shard in {row["shard"] for row in chosen}:
        wanted = sorted(row["row"] for row in chosen if row["shard"] == shard)
        found |= {(shard, row): data for row, data in iter_bytes(root / "data" / shard, wanted)}
    return places, [found[row["shard"], row["row"]] for row in chosen]


def _latency(root: Path, model: OnnxModel, rows: pa.Table, images: ImagesParams, runs: int) -> dict[str, float]:
    """Milliseconds from encoded bytes to probabilities: one image, one thread, like a server without a queue."""
    _, encoded = _encoded_images(root, rows, min(runs, PARITY_IMAGES))
    taken = []
    for turn in range(WARM_UP + runs):
        start = time.perf_counter()
        model(_preprocessed(encoded[turn % len(encoded)], images)[None])
        taken.append(1000 * (time.perf_counter() - start))
    p50, p99 = np.percentile(taken[WARM_UP:], [50, 99])
    return {"p50": round(float(p50), 2), "p99": round(float(p99), 2)}


def _preprocessed(data: bytes, images: ImagesParams) -> np.ndarray:
    return preprocess(data, *(getattr(images, key) for key in PREPROCESS))


def _parity(
    root: Path, model: OnnxModel, pixels: ShardTable, rows: pa.Table, images: ImagesParams, calibration: dict
) -> dict:
    """Largest difference in probability between exported and trained model. rows: the first rows of `pixels`.

    The exported model gets the cached pixels, the trained one decodes the images: a stale cache shows as well.
    """
    backbone, about = stage1.load(root)
    places, encoded = _encoded_images(root, rows, PARITY_IMAGES)
    fresh = np.stack([_preprocessed(data, images) for data in encoded])
    logits = read_head(root).logits(TorchFeatures(backbone, about["mean"], about["std"])(fresh))
    trained = scale(logits, read_scaling(calibration), calibration["task"])
    difference = float(np.abs(trained - model(pixels[places]).probabilities).max())
    return {"max_difference": float(f"{difference:.3g}"), "images": len(places)}
