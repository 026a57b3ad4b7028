"""A run's worktree whose model was taught wrong labels, and makes mistakes because of them."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.common.artifacts import training_rows
from tasks.common.files import atomic_path, write_json
from tasks.common.params import load_params
from tasks.common.schemas import predictions_schema
from tasks.models import influence, stage1
from tasks.scoring.targets import encode
from tests.support import small_project
from tests.support.shared import once

WRONG = 12  # trouser images that are labelled as bags
L2 = 0.01
HOSTILE = "<img src=x onerror=alert(1)>"


def copy(to: Path) -> Path:
    """The worktree of one's own, at `to`."""
    import shutil

    return shutil.copytree(once("mistaken", _make), to, dirs_exist_ok=True)


def wrong_ids(tree: Path) -> set[str]:
    """The training images with a wrong label."""
    table = pq.read_table(tree / "artifacts/clean/labels.parquet").to_pylist()
    return {row["id"] for row in table if row["quality"] is not None and row["quality"] < 0.2}


def _make(root: Path) -> None:
    small_project.copy(root)
    _mislabel(root)
    images, classes = load_params(root / "params.yaml").images, small_project.CLASSES
    rows = training_rows(root)
    y = encode(rows["train"]["label"], classes, "multiclass")
    x = stage1.stage1_features(root, rows["train"], images)[:].astype(np.float32)
    taught = influence.teach(x, y, len(classes), 1 / np.bincount(y)[y], L2)
    from safetensors.numpy import save_file

    with atomic_path(root / "artifacts/train_head/head.safetensors") as temporary:
        save_file({"weight": taught.classifier.weight, "bias": taught.classifier.bias}, temporary)
    about = {"network": "trained", "method": "crt", "settings": {"crt": L2}}
    write_json(root / "artifacts/train_head/head.json", about)
    bounds = {"classes": classes, "task": "multiclass", "thresholds": dict.fromkeys(classes, 0.5)}
    write_json(root / "artifacts/calibrate/calibration.json", bounds)
    test = stage1.stage1_features(root, rows["test"], images)[:].astype(np.float32)
    answers = taught.classifier.probabilities(test)
    said = [
        {"id": name, "split": "test", "label": label, "probabilities": p.tolist()}
        for name, label, p in zip(
            rows["test"]["id"].to_pylist(), rows["test"]["label"].to_pylist(), answers, strict=True
        )
    ]
    with atomic_path(root / "artifacts/evaluate/predictions.parquet") as temporary:
        pq.write_table(pa.Table.from_pylist(said, predictions_schema("multiclass")), temporary)


def _mislabel(root: Path) -> None:
    """Give WRONG training images of the last class the second one, and every row what `clean` says of it."""
    cleaned = pq.read_table(root / "artifacts/clean/labels.parquet")
    rows, left = cleaned.to_pylist(), WRONG
    bag, trouser = small_project.CLASSES[1:]
    for row in rows:
        row |= {"quality": 0.9, "predicted": row["label"], "confidence": 0.9, "is_issue": False}
        if row["split"] == "train" and row["label"] == trouser and left:
            left -= 1
            row |= {"given": bag, "label": bag, "quality": 0.1, "is_issue": True}
    (root / "artifacts/clean/labels.parquet").unlink()
    pq.write_table(pa.Table.from_pylist(rows, cleaned.schema), root / "artifacts/clean/labels.parquet")
    for file in ("artifacts/validate/accepted.parquet",):
        accepted = pq.read_table(root / file)
        named = {row["id"]: row["label"] for row in rows}
        labels = pa.array([named.get(name) for name in accepted["id"].to_pylist()], accepted.schema.field("label").type)
        (root / file).unlink()
        pq.write_table(accepted.set_column(accepted.schema.get_field_index("label"), "label", labels), root / file)


RUN = "20261121T090000000000-abc123-1"


def with_run(folder: Path) -> Path:
    """A project at `folder`/main with one held run, RUN, whose worktree is that of `copy`."""
    import os
    import shutil

    from flows.repo import workspace
    from tasks.labels.storing import write_annotations
    from tasks.releases.store import open_store
    from tests.support import live_project
    from tests.support.annotating import said

    main = copy(folder / "main")
    write_annotations(main / "data", [said(sorted(wrong_ids(main))[0], "Bag", annotator=HOSTILE)])
    (main / "dvc.yaml").write_text("stages: {}\n")
    (main / "tombstones.json").write_text("{}\n")
    live_project.commit_project(main)
    tree, lock = workspace.create(main, RUN, {})
    for name in ("data", "artifacts"):
        shutil.copytree(main / name, tree / name, dirs_exist_ok=True)
    write_json(tree / "artifacts/bundle/MANIFEST.json", {"files": {}})
    os.close(lock)
    about = {"outcome": "held", "sentence": "it is held", "at": "2026-11-21T09:10:00+00:00", "by": "ann"}
    about |= {"version": None, "verdict": None, "bundle": None, "rev": None, "decisions": [], "reason": "a test"}
    open_store(load_params(main / "params.yaml").store, main).put_run(RUN, about)
    return main
