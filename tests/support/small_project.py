"""A project up to `train_head`, made in seconds from real images and a network as it comes.

Not from the stages themselves: what they make is tested with them, and minutes of training would add nothing here.
"""

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.common.files import atomic_path, sha256_bytes, write_json
from tasks.common.params import load_params
from tasks.common.schemas import MEASURES, accepted_schema, cleaned_schema, samples_schema
from tasks.dataset import shards
from tests.support.checkout import ROOT
from tests.support.shared import once

CLASSES = ["Ankle boot", "Bag", "Trouser"]
BACKBONE, SIZE = "tf_efficientnet_lite0", 32  # its pretrained weights are installed with the project
COUNTS = {"train": 20, "calibration": 16, "test": 12}  # of each class


def finished_project(task: str = "multiclass") -> Path:
    """A project after `calibrate` and `bundle`, made once in a test run. Copy it before changing anything."""
    return once(f"finished-{task}", lambda root: _finish(copy(root, task)))


def copy(to: Path, task: str = "multiclass") -> Path:
    """A project of one's own before `calibrate`, at `to`."""
    return shutil.copytree(once(f"project-{task}", lambda root: project(root, task)), to, dirs_exist_ok=True)


def _finish(root: Path) -> None:
    from tasks.stages.bundle import stage
    from tasks.stages.calibrate import stage as calibrate_stage

    params = load_params(root / "params.yaml")
    calibrate_stage.run(root, images=params.images, calibrate=params.calibrate)
    stage.run(root, images=params.images, bundle=params.bundle, gate=params.gate)


def project(root: Path, task: str) -> Path:
    """Data, and the outputs of the stages before `calibrate`, under `root`."""
    params = (ROOT / "params.yaml").read_text()
    params = params.replace("  resolution: 64", f"  resolution: {SIZE}").replace("task: multiclass", f"task: {task}")
    (root / "params.yaml").write_text(params.replace("reference_rows: 500", "reference_rows: 40"))
    images = load_params(root / "params.yaml").images
    rows = _fashion(task)
    shards.create_dataset(root / "data", task)
    name = shards.write_shard(root / "data", rows, task)
    manifest = shards.BatchManifest(seq=1, batch="b-1", kind="import", shards=[name], rows=len(rows))
    shards.write_manifest(root / "data", manifest)

    samples = _with(
        rows, samples_schema(task), shard=[name] * len(rows), row=range(len(rows)), status=["ok"] * len(rows)
    )
    _write(root / "artifacts/inspect/samples.parquet", samples)
    _write(root / "artifacts/validate/accepted.parquet", samples.select(accepted_schema(task).names))
    write_json(root / "artifacts/validate/classes.json", CLASSES)
    cleaned = _with(rows, cleaned_schema(task), given=rows["label"], action=["keep"] * len(rows))
    _write(root / "artifacts/clean/labels.parquet", cleaned)
    _network(root, task, images)
    _head(root, task, images)
    write_json(root / "metrics/clean.json", {"issues": 0})
    write_json(
        root / "metrics/evaluate.json",
        {"test": {"accuracy": 0.5}, "hard": None, "shots": {"few": {"recall": 0.25}}, "latency_ms": {"p50": 1.5}},
    )
    return root


def image_bytes(name: str, count: int = 1) -> list[bytes]:
    """The first `count` encoded images labelled `name` in the default data set's test split."""
    table = pq.read_table(ROOT / "datasets/fashion/base.parquet", columns=["image", "label", "split"])
    table = table.filter(pc.and_(pc.equal(table["label"], name), pc.equal(table["split"], "test")))
    return table["image"].combine_chunks().field("bytes").to_pylist()[:count]


def _fashion(task: str) -> pa.Table:
    """sample_schema rows. Multi-label: the class, and "Bag" too for every second trouser."""
    table = pq.read_table(ROOT / "datasets/fashion/base.parquet", columns=["image", "label", "split"])
    left = {(split, name): count for split, count in COUNTS.items() for name in CLASSES}
    rows = []
    for row in table.to_pylist():
        place = (row["split"], row["label"])
        if left.get(place, 0) > 0:
            left[place] -= 1
            labels = [row["label"]] + (["Bag"] if row["label"] == "Trouser" and left[place] % 2 else [])
            rows.append(
                {
                    "id": sha256_bytes(row["image"]["bytes"]),
                    "image": row["image"],
                    "label": row["label"] if task == "multiclass" else labels,
                    "origin": "import",
                    "batch": "b-1",
                    "slice": [],
                    "split": row["split"],
                }
            )
    return pa.Table.from_pylist(rows, schema=shards.sample_schema(task))


def _with(rows: pa.Table, schema: pa.Schema, **columns) -> pa.Table:
    """`rows` as `schema`: its own columns, those given, constants for the image measures, nulls for the rest."""
    measures = {field.name for field in MEASURES}

    def column(field: pa.Field) -> pa.Array:
        if field.name in columns:
            value = columns[field.name]
            return value.combine_chunks() if isinstance(value, pa.ChunkedArray) else pa.array(value, field.type)
        if field.name in rows.column_names:
            return rows[field.name].combine_chunks()
        if field.name in measures:
            return pa.array(["PNG" if pa.types.is_string(field.type) else 28] * len(rows)).cast(field.type)
        return pa.nulls(len(rows), field.type)

    return pa.Table.from_arrays([column(field) for field in schema], schema=schema)


def _write(path: Path, table: pa.Table) -> None:
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary)


def _network(root: Path, task: str, images) -> None:
    import torch

    from tasks.backbones import timm_models
    from tasks.models import stage1

    torch.manual_seed(0)
    model = timm_models.create_model(BACKBONE, "auto", len(CLASSES), SIZE)
    about = {
        "backbone": BACKBONE,
        "pretrained": "auto",
        "classes": CLASSES,
        "task": task,
        "resolution": SIZE,
        "fit": images.fit,
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
        "feature_dim": timm_models.feature_dim(model),
    }
    stage1.save(root, model, about)


def _head(root: Path, task: str, images) -> None:
    """A ridge regression on standardised features: enough to be right nearly always."""
    from safetensors.numpy import save_file

    from tasks.common import artifacts
    from tasks.models import stage1
    from tasks.scoring.targets import encode

    train = artifacts.training_rows(root)["train"]
    features = stage1.stage1_features(root, train, images)[:].astype(np.float64)
    targets = encode(train["label"], CLASSES, task)
    truth = np.eye(len(CLASSES))[targets] if task == "multiclass" else targets
    mean, std = features.mean(axis=0), features.std(axis=0) + 1e-9
    x = (features - mean) / std
    weight = 8 * np.linalg.solve(x.T @ x + 100 * np.eye(x.shape[1]), x.T @ (truth - truth.mean(axis=0))) / std[:, None]
    with atomic_path(root / "artifacts/train_head/head.safetensors") as temporary:
        save_file(
            {"weight": weight.T.astype(np.float32).copy(), "bias": (-mean @ weight).astype(np.float32)}, temporary
        )
    write_json(root / "artifacts/train_head/head.json", {"method": "crt"})
