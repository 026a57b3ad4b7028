"""The gate's inputs put together: challenger and champion, each through its own exported model, same images."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.contracts import GateVerdict, predictions_schema
from tasks.files import content_key, read_json, sha256_bytes
from tasks.params import ImagesParams, Params
from tasks.store import Pointer, Releases


def champion_predictions(root: Path, bundle: Path, challenger: pa.Table, classes: list[str], task: str) -> pa.Table:
    """The champion's calibrated probabilities for the samples of `challenger` (predictions_schema).

    Uses the champion's own preprocessing spec; its class columns are put in the challenger's order, a class it
    does not know gets probability 0. Kept by (bundle, samples), so judging again costs nothing.
    """
    from serving.predictor import Predictor
    from tasks.bundle import digest
    from tasks.paths import cache_dir
    from tasks.pixels import pixel_table

    key = content_key(digest(bundle), challenger.column("id").to_pylist(), classes)
    file = cache_dir("champion", root) / f"{key}.parquet"
    if file.is_file():
        return pq.read_table(file)
    predictor = Predictor(bundle)
    spec = predictor.about["preprocess"]
    accepted = pq.read_table(root / "artifacts/validate/accepted.parquet", columns=["id", "shard", "row"])
    position = {id_: row for row, id_ in enumerate(accepted.column("id").to_pylist())}
    samples = accepted.take([position[id_] for id_ in challenger.column("id").to_pylist()])
    pixels = pixel_table(root, samples, ImagesParams(**spec))
    probabilities, scores = [], []
    for _, block in pixels.batches(256):
        outputs = predictor.predict_pixels(block)
        probabilities.append(outputs.probabilities)
        scores.append(predictor.ood(outputs))
    known = np.concatenate(probabilities)
    aligned = np.zeros((len(known), len(classes)), np.float32)
    for column, name in enumerate(predictor.classes):
        if name in classes:
            aligned[:, classes.index(name)] = known[:, column]
    table = challenger.set_column(
        challenger.schema.get_field_index("probabilities"), "probabilities", [list(aligned)]
    ).set_column(challenger.schema.get_field_index("ood"), "ood", [np.concatenate(scores).astype(np.float32)])
    table = table.cast(predictions_schema(task))
    from tasks.files import atomic_path

    with atomic_path(file) as temporary:
        pq.write_table(table, temporary)
    return table


def hard_set_version(predictions: pa.Table) -> str | None:
    """Names the hard set by its content; None when there is none."""
    ids = predictions.filter(pc.equal(predictions["split"], "hard")).column("id").to_pylist()
    return f"hard-{sha256_bytes(''.join(sorted(ids)).encode())[:12]}" if ids else None


def judge_run(root: Path, params: Params, releases: Releases, champion: Pointer | None) -> GateVerdict:
    """The gate's verdict on the bundle in `root` against `champion` (None: the first model)."""
    from tasks.bundle import digest
    from tasks.gate import judge
    from tasks.paths import cache_dir

    challenger = pq.read_table(root / "artifacts/evaluate/predictions.parquet")
    classes = read_json(root / "artifacts/validate/classes.json")
    cleaned = pq.read_table(root / "artifacts/clean/labels.parquet", columns=["split", "label", "action"])
    trained = cleaned.filter(pc.and_(pc.equal(cleaned["split"], "train"), pc.not_equal(cleaned["action"], "drop")))
    labels = trained.column("label").combine_chunks()
    names = labels.flatten() if pa.types.is_list(labels.type) else labels
    counts = {entry["values"]: entry["counts"] for entry in pc.value_counts(names).to_pylist()}
    against = None
    if champion is not None:
        bundle = cache_dir("bundles", root) / champion.bundle
        releases.get_bundle(champion.bundle, bundle)  # re-hashes what is there, mends what is not
        against = champion_predictions(root, bundle, challenger, classes, params.data.task)
    return judge(
        challenger,
        against,
        classes=classes,
        task=params.data.task,
        metrics=read_json(root / "metrics/evaluate.json"),
        policy=params.gate,
        train_counts={name: counts.get(name, 0) for name in classes},
        challenger_id=digest(root / "artifacts/bundle"),
        champion_version=champion.version if champion else None,
        hard_set=hard_set_version(challenger),
    )
