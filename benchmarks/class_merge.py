"""What does a merge of two classes cost, and does it give what a fresh data set with the merged labels gives?

    python -m benchmarks.class_merge --data SHARED/cifar10n-train.parquet [--work FOLDER] [--quick]

Two projects take the same images: `merged` with the labels as they are and then `evergreen classes merge`, `fresh` with
the labels already merged. `merge_50k_s`: seconds of the command and of the stages that it makes run (validate and
LATER), with all that was computed before in the cache, for 50,000 images. `merge_label_mismatches`: images whose
effective label differs between the two. `merge_accuracy_points`: balanced accuracy on the test split, merged minus
fresh, in points, on the first FRESH images, because a fresh run computes all features again.

The network is the pretrained one and nothing is cleaned: a merge runs neither stage, so they would add hours and show
nothing. Expected: a few minutes, no mismatch, less than a point. A second call continues with FOLDER's finished steps.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml

from benchmarks.record import Figure, report
from flows.labels.classes import plan_change, record_change
from flows.repo.git import git
from tasks.common.artifacts import ACCEPTED, NETWORK
from tasks.common.files import read_json, write_json
from tasks.common.params import load_params
from tasks.common.schemas import cleaned_schema
from tasks.ingest.batch import ingest
from tasks.stages.runner import run_stage

ROOT = Path(__file__).resolve().parent.parent
MERGED, INTO = ("cat", "dog"), "pet"
NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
FRESH = 8000
LATER = ("train_head", "calibrate", "evaluate")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    if given.work is None:
        with tempfile.TemporaryDirectory() as folder:
            run(Path(folder), given.data, given.quick)
    else:
        run(given.work, given.data, given.quick)


def run(work: Path, data: Path | None, quick: bool) -> list[Figure]:
    """Measure, print and record. data: CIFAR-10N; None: the images of this repository."""
    os.environ.pop("EVERGREEN_STATE", None)  # projects of one process would share caches
    table = images(data)
    count, few = (400, 400) if quick else (len(table), FRESH)
    seconds, mismatches = measure(work / "all", table.slice(0, count))
    points = 100 * (
        accuracy(work / "few", table.slice(0, few), "merged") - accuracy(work / "few", table.slice(0, few), "fresh")
    )
    figures = [
        Figure(
            name="merge_50k_s", value=round(seconds, 1), unit="s", goal=None, better="lower", peer=f"{count:,} images"
        ),
        Figure(name="merge_label_mismatches", value=mismatches, unit="images", goal=0, better="lower"),
        Figure(
            name="merge_accuracy_points",
            value=round(points, 2),
            unit="points",
            goal=-1.0,
            better="higher",
            peer=f"fresh run, {few:,} images",
        ),
    ]
    report("class_merge", "python -m benchmarks.class_merge --data SHARED/cifar10n-train.parquet", figures, quick)
    return figures


def images(data: Path | None) -> pa.Table:
    """Columns image and label, in an order that mixes the classes."""
    if data is None:
        table = pq.read_table(ROOT / "datasets/fashion/base.parquet", columns=["image", "label"])
        wanted = {"Bag": "cat", "Sandal": "dog", "Sneaker": "ship"}
        table = table.filter(pc.is_in(table["label"], pa.array(list(wanted))))
        return table.set_column(1, "label", pa.array([wanted[name] for name in table["label"].to_pylist()]))
    table = pq.read_table(data, columns=["image", "clean_label"])
    names = [NAMES[value] if isinstance(value, int) else value for value in table["clean_label"].to_pylist()]
    splits = np.repeat(["train", "calibration", "test"], [14, 3, 3])  # the same in both projects: classes decide them
    return pa.table({"image": table["image"], "label": names, "split": np.resize(splits, len(names))})


def measure(work: Path, table: pa.Table) -> tuple[float, int]:
    """(seconds of a merge, effective labels that differ from a fresh data set)."""
    root = project(work / "merged", table)
    prepared(root)
    seconds = merge(root)
    fresh = project(work / "fresh", merged_labels(table))
    step(fresh, "validate", lambda: run_stage("validate", fresh))
    ours, theirs = (labels(one / ACCEPTED) for one in (root, fresh))
    return seconds, sum(ours.get(one) != theirs.get(one) for one in {*ours, *theirs})


def accuracy(work: Path, table: pa.Table, kind: str) -> float:
    """Balanced accuracy of the merged, or of a fresh, project on its test split."""
    if kind == "merged":
        root = project(work / kind, table)
        prepared(root)
        merge(root)
    else:
        root = project(work / kind, merged_labels(table))
        prepared(root)
    return read_json(root / "metrics/evaluate.json")["test"]["balanced_accuracy"]


def merge(root: Path) -> float:
    """Merge and run what that makes run; seconds. Not again if it was done."""
    return step(root, "merge", lambda: _merge(root))


def _merge(root: Path) -> float:
    before = {file.name: file.read_bytes() for file in (root / NETWORK).iterdir()}
    began = time.monotonic()
    record_change(root, plan_change(root, "merge", MERGED, [INTO], why="a benchmark", by="benchmark"))
    for name in ("validate", *LATER):
        run_stage(name, root)
    seconds = time.monotonic() - began
    assert {file.name: file.read_bytes() for file in (root / NETWORK).iterdir()} == before, "the network would train"
    return seconds


def step(root: Path, name: str, do) -> float:
    """Do a step once; what it returns is kept."""
    file = root / ".steps" / f"{name}.json"
    if not file.is_file():
        write_json(file, do())
    return read_json(file)


def project(root: Path, table: pa.Table) -> Path:
    """A project that holds the images, inspected."""
    step(root, "project", lambda: _project(root, table))
    step(root, "inspect", lambda: run_stage("inspect", root))
    return root


def _project(root: Path, table: pa.Table) -> None:
    (root / ".steps").mkdir(parents=True, exist_ok=True)
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["images"]["resolution"] = 32
    params["evaluate"] |= {"corruptions": ["dark"], "latency_runs": 5}
    params["validate"]["max_quarantined"] = 0.5
    (root / "params.yaml").write_text(yaml.safe_dump(params))
    for name in ("dvc.yaml", "tombstones.json", ".gitignore", ".dvc/config", ".dvc/.gitignore"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes((ROOT / name).read_bytes())
    (root / ".gitignore").write_text("/data\n/artifacts\n/.evergreen\n/.steps\n/metrics\n")
    git(root, "init", "-q")
    git(root, "add", "-A")
    git(root, "-c", "user.name=b", "-c", "user.email=b@localhost", "commit", "-qm", "a project")
    source = root / ".steps" / "source.parquet"
    pq.write_table(table, source)
    known = load_params(root / "params.yaml")
    ingest(root, source, data=known.data, images=known.images, inspect=known.inspect)
    source.unlink()


def prepared(root: Path) -> None:
    """Every stage before the merge has run: all caches are warm."""
    step(root, "validate", lambda: run_stage("validate", root))
    step(root, "clean", lambda: _unclean(root))
    step(root, "network", lambda: _network(root))
    for name in LATER:
        step(root, name, lambda name=name: run_stage(name, root))


def _unclean(root: Path) -> None:
    """What `clean` writes if it changes nothing."""
    rows = pq.read_table(root / ACCEPTED)
    rows = rows.filter(pc.is_valid(rows["label"]))
    count = len(rows)
    columns = {"id": rows["id"], "split": rows["split"], "given": rows["label"], "label": rows["label"]}
    columns |= {"action": ["keep"] * count, "predicted": rows["label"], "is_issue": np.zeros(count, bool)}
    schema = cleaned_schema("multiclass")
    made = [
        columns[field.name].combine_chunks()
        if isinstance(columns.get(field.name), pa.ChunkedArray)
        else pa.array(columns.get(field.name, [None] * count), field.type)
        for field in schema
    ]
    (root / "artifacts/clean").mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_arrays(made, schema=schema), root / "artifacts/clean/labels.parquet")


def _network(root: Path) -> None:
    """The pretrained network in the place of a trained one; without a probe, which would be the same again."""
    import torch

    from tasks.backbones import timm_models
    from tasks.common.artifacts import network_classes
    from tasks.models import stage1

    torch.manual_seed(0)
    backbone, classes = load_params(root / "params.yaml").train_backbone.backbone, network_classes(root)
    model = timm_models.create_model(backbone, "auto", len(classes), 32)
    about = {"backbone": backbone, "pretrained": "none", "classes": classes, "task": "multiclass", "resolution": 32}
    about |= {"fit": "squash", "mean": [0.5] * 3, "std": [0.5] * 3, "feature_dim": timm_models.feature_dim(model)}
    stage1.save(root, model, about)


def merged_labels(table: pa.Table) -> pa.Table:
    return table.set_column(
        1, "label", pa.array([INTO if name in MERGED else name for name in table["label"].to_pylist()])
    )


def labels(file: Path) -> dict[str, str | None]:
    return dict(zip(*pq.read_table(file, columns=["id", "label"]).to_pydict().values(), strict=True))


if __name__ == "__main__":
    main()
