"""Stage `bundle`: everything serving and monitoring need, in one folder that can be checked against itself.

    artifacts/bundle/
      model.onnx           the finished model, see tasks.stages.calibrate.export
      weights.safetensors  the same weights for further training: backbone.<timm name>, head.weight, head.bias
      bundle.json          what the model is; see `describe`
      ood.safetensors      reference bank of the out-of-distribution score
      reference.parquet    the model's own drift reference, see tasks.stages.bundle.reference
      card.md              model card
      MANIFEST.json        {"files": {name: {sha256, bytes}}}, written last
    metrics/bundle.json

`digest` (the sha256 of MANIFEST.json) names the bundle.
"""

import importlib.metadata
import platform
import shutil
import subprocess
from collections import Counter
from operator import itemgetter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.common import artifacts
from tasks.common.files import atomic_dir, content_key, parse_yaml, read_json, write_json
from tasks.common.params import BundleParams, ImagesParams, load_params
from tasks.common.schemas import SPLITS
from tasks.releases.bundle import SCHEMA_VERSION, digest, write_manifest

STAGES_BEFORE = ("inspect", "validate", "embed", "clean", "train_backbone", "train_head", "calibrate", "evaluate")
LIBRARIES = ("numpy", "onnx", "onnxruntime", "pillow", "pyarrow", "timm", "torch")


def run(root: Path, *, images: ImagesParams, bundle: BundleParams) -> None:
    """Write artifacts/bundle/ and metrics/bundle.json. Raises StageInputError where an earlier stage has not run."""
    from safetensors.numpy import load_file, save_file

    from tasks.stages.bundle import card, reference

    rows = artifacts.training_rows(root)
    about = describe(root, rows, images, bundle.name)
    calibrate = root / "artifacts/calibrate"
    with atomic_dir(root / "artifacts/bundle") as folder:
        for name in ("model.onnx", "ood.safetensors"):
            shutil.copyfile(artifacts.stage_output(calibrate / name, "calibrate"), folder / name)
        backbone = load_file(artifacts.stage_output(root / artifacts.FOLDER / "weights.safetensors", "train_backbone"))
        head = load_file(artifacts.stage_output(root / "artifacts/train_head/head.safetensors", "train_head"))
        tensors = {f"backbone.{name}": value for name, value in backbone.items()}
        save_file(tensors | {f"head.{name}": value for name, value in head.items()}, folder / "weights.safetensors")
        origins = pq.read_table(root / "artifacts/inspect/samples.parquet", columns=["id", "origin"])
        chosen = reference.choose(rows, origins, bundle.reference_rows)
        table = reference.build(root, chosen, folder / "model.onnx", images, about["ood"], about["task"])
        pq.write_table(table, folder / "reference.parquet", compression="zstd", row_group_size=256)
        write_json(folder / "bundle.json", about)
        (folder / "card.md").write_text(card.render(about), encoding="utf-8")
        write_manifest(folder)
    write_json(
        root / "metrics/bundle.json",
        {
            "digest": digest(root / "artifacts/bundle"),
            "size_mb": round(sum(f.stat().st_size for f in (root / "artifacts/bundle").iterdir()) / 1e6, 3),
            "reference_rows": len(table),
        },
    )


def describe(root: Path, rows: dict[str, pa.Table], images: ImagesParams, name: str) -> dict:
    """bundle.json: only what earlier stages found and measured. rows: of artifacts.training_rows."""
    calibration = read_json(artifacts.stage_output(root / "artifacts/calibrate/calibration.json", "calibrate"))
    model = read_json(artifacts.stage_output(root / artifacts.FOLDER / "model.json", "train_backbone"))
    artifacts.stage_output(root / "metrics/evaluate.json", "evaluate")
    files = {stage: root / "metrics" / f"{stage}.json" for stage in STAGES_BEFORE}
    return {
        "schema": SCHEMA_VERSION,
        "name": name,
        "task": calibration["task"],
        "classes": calibration["classes"],
        "backbone": {key: model[key] for key in ("backbone", "pretrained", "mean", "std", "feature_dim")},
        "preprocess": images.model_dump(),
        "temperature": calibration["temperature"],
        "thresholds": calibration["thresholds"],
        "ood": calibration["ood"],
        "data": {
            **data_version(root),
            "images": {split: per_class(rows[split], calibration["classes"]) for split in SPLITS},
        },
        "git_revision": git_revision(root),
        "params": load_params(root / "params.yaml").model_dump(mode="json", by_alias=True),
        "metrics": {stage: read_json(file) for stage, file in files.items() if file.is_file()},
        "versions": {"python": platform.python_version()}
        | {library: importlib.metadata.version(library) for library in LIBRARIES},
    }


def per_class(rows: pa.Table, classes: list[str]) -> dict[str, int]:
    """Images of each class; an image of several labels counts for each."""
    labels = rows["label"].combine_chunks()
    names = labels.flatten() if pa.types.is_list(labels.type) else labels
    found = Counter(names.to_pylist())
    return {name: found[name] for name in classes}


def data_version(root: Path) -> dict[str, str | None]:
    """What the model was made from: a hash over the accepted ids and labels, and data.dvc's own where there is one."""
    accepted = pq.read_table(root / "artifacts/validate/accepted.parquet", columns=["id", "label"])
    pairs = sorted(zip(accepted["id"].to_pylist(), accepted["label"].to_pylist(), strict=True), key=itemgetter(0))
    pointer = root / "data.dvc"
    tracked = parse_yaml(pointer.read_text())["outs"][0]["md5"] if pointer.is_file() else None
    return {"sha256": content_key(pairs), "dvc_md5": tracked}


def git_revision(root: Path) -> str | None:
    """The commit checked out at `root`; None outside git and before the first commit."""
    found = subprocess.run(["git", "rev-parse", "--verify", "-q", "HEAD"], cwd=root, capture_output=True, text=True)
    return found.stdout.strip() or None
