"""The gate's inputs put together: challenger and champion, each through its own exported model, same images."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.code import code_version
from tasks.contracts import GateVerdict, predictions_schema
from tasks.files import atomic_path, content_key, read_json, sha256_bytes, write_json
from tasks.params import ImagesParams, Params
from tasks.paths import cache_dir
from tasks.store import Pointer, Releases


def champion_evidence(
    root: Path, bundle: Path, challenger: pa.Table, classes: list[str], params: Params
) -> tuple[pa.Table, dict]:
    """(predictions, metrics) of the champion in `bundle` on the samples of `challenger` (predictions_schema).

    Its own preprocessing spec is used; its class columns are put in the order of `classes`, a class it does not
    know gets probability 0. Kept by (bundle, samples, corruptions), so judging again costs nothing.
    """
    from tasks import evaluate
    from tasks.bundle import digest

    layout = str(predictions_schema(params.data.task))
    code = code_version("flows.judge")  # of the gate too: a changed gate measures the champion once more
    asked = [challenger.column("id").to_pylist(), classes, params.evaluate.model_dump(), layout, code]
    file = cache_dir("champion", root) / f"{content_key(digest(bundle), *asked)}.parquet"
    metrics = file.with_suffix(".json")
    if not metrics.is_file():  # written last
        table = _predictions(root, bundle, challenger, classes, params.data.task)
        with atomic_path(file) as temporary:
            pq.write_table(table, temporary)
        write_json(metrics, evaluate.champion_metrics(root, bundle, table, classes=classes, evaluate=params.evaluate))
    return pq.read_table(file), read_json(metrics)


def _predictions(root: Path, bundle: Path, challenger: pa.Table, classes: list[str], task: str) -> pa.Table:
    from serving.predictor import Predictor
    from tasks.evaluate import align
    from tasks.pixels import pixel_table

    predictor = Predictor(bundle)
    accepted = pq.read_table(root / "artifacts/validate/accepted.parquet", columns=["id", "shard", "row"])
    samples = accepted.take(pc.index_in(challenger["id"], accepted["id"].combine_chunks()))
    pixels = pixel_table(root, samples, ImagesParams(**predictor.about["preprocess"]))
    probabilities, scores = [], []
    for _, block in pixels.batches(256):
        outputs = predictor.predict_pixels(block)
        probabilities.append(align(outputs.probabilities, predictor.classes, classes))
        scores.append(predictor.ood(outputs))
    columns = {name: challenger[name] for name in challenger.column_names}
    columns["probabilities"] = pa.array(list(np.concatenate(probabilities)), pa.list_(pa.float32()))
    columns["ood"] = pa.array(np.concatenate(scores), pa.float32())
    return pa.table(columns, schema=predictions_schema(task))


def hard_set_version(predictions: pa.Table) -> str | None:
    """Names the hard set by its content; None when there is none."""
    ids = predictions.filter(pc.equal(predictions["split"], "hard")).column("id").to_pylist()
    return f"hard-{sha256_bytes(''.join(sorted(ids)).encode())[:12]}" if ids else None


def train_counts(root: Path, classes: list[str]) -> dict[str, int]:
    """Training images per class, as cleaned."""
    cleaned = pq.read_table(root / "artifacts/clean/labels.parquet", columns=["split", "label", "action"])
    trained = cleaned.filter(pc.and_(pc.equal(cleaned["split"], "train"), pc.not_equal(cleaned["action"], "drop")))
    labels = trained.column("label").combine_chunks()
    names = labels.flatten() if pa.types.is_list(labels.type) else labels
    counts = {entry["values"]: entry["counts"] for entry in pc.value_counts(names).to_pylist()}
    return {name: counts.get(name, 0) for name in classes}


def judge_run(root: Path, params: Params, releases: Releases, champion: Pointer | None) -> GateVerdict:
    """The gate's verdict on the bundle in `root` against `champion` (None: the first model)."""
    from tasks.bundle import digest
    from tasks.gate import judge

    challenger = pq.read_table(root / "artifacts/evaluate/predictions.parquet")
    classes = read_json(root / "artifacts/validate/classes.json")
    against, metrics = None, None
    if champion is not None:
        bundle = cache_dir("bundles", root) / champion.bundle
        releases.get_bundle(champion.bundle, bundle)  # re-hashes what is there, mends what is not
        against, metrics = champion_evidence(root, bundle, challenger, classes, params)
    return judge(
        challenger,
        against,
        classes=classes,
        task=params.data.task,
        metrics=read_json(root / "metrics/evaluate.json"),
        policy=params.gate,
        train_counts=train_counts(root, classes),
        challenger_id=digest(root / "artifacts/bundle"),
        champion_version=champion.version if champion else None,
        hard_set=hard_set_version(challenger),
        champion_metrics=metrics,
    )
