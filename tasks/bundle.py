"""Stage `bundle`: everything serving and monitoring need, in one folder that can be checked against itself.

    artifacts/bundle/
      model.onnx           the finished model, see tasks.export
      weights.safetensors  the same weights for further training: backbone.<timm name>, head.weight, head.bias
      bundle.json          what the model is; see `describe`
      ood.safetensors      reference bank of the out-of-distribution score
      reference.parquet    the model's own drift reference, see tasks.reference
      card.md              model card
      MANIFEST.json        {"files": {name: {sha256, bytes}}}, written last
    metrics/bundle.json

`digest` (the sha256 of MANIFEST.json) names the bundle.
"""

import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
from collections import Counter
from operator import itemgetter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tasks import network
from tasks.contracts import SPLITS
from tasks.errors import EvergreenError
from tasks.files import atomic_dir, content_key, parse_yaml, read_json, sha256_bytes, sha256_file, write_json
from tasks.params import BundleParams, ImagesParams, load_params

SCHEMA_VERSION = 1
MANIFEST = "MANIFEST.json"
STAGES_BEFORE = ("inspect", "validate", "embed", "clean", "train_backbone", "train_head", "calibrate", "evaluate")
LIBRARIES = ("numpy", "onnx", "onnxruntime", "pillow", "pyarrow", "timm", "torch")


class BundleDamaged(EvergreenError):
    """A bundle is not what its manifest says; the text names every file."""


def run(root: Path, *, images: ImagesParams, bundle: BundleParams) -> None:
    """Write artifacts/bundle/ and metrics/bundle.json. Raises StageInputError where an earlier stage has not run."""
    from safetensors.numpy import load_file, save_file

    from tasks import card, reference

    rows = network.training_rows(root)
    about = describe(root, rows, images, bundle.name)
    calibrate = root / "artifacts/calibrate"
    with atomic_dir(root / "artifacts/bundle") as folder:
        for name in ("model.onnx", "ood.safetensors"):
            shutil.copyfile(network.stage_output(calibrate / name, "calibrate"), folder / name)
        backbone = load_file(network.stage_output(root / network.FOLDER / "weights.safetensors", "train_backbone"))
        head = load_file(network.stage_output(root / "artifacts/train_head/head.safetensors", "train_head"))
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
    """bundle.json: only what earlier stages found and measured. rows: of network.training_rows."""
    calibration = read_json(network.stage_output(root / "artifacts/calibrate/calibration.json", "calibrate"))
    model = read_json(network.stage_output(root / network.FOLDER / "model.json", "train_backbone"))
    network.stage_output(root / "metrics/evaluate.json", "evaluate")
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


def write_manifest(folder: Path) -> None:
    """Write MANIFEST.json over the files in `folder`, each made durable first: with the manifest it is whole."""
    files = {}
    for file in sorted(folder.iterdir()):
        with open(file, "rb") as written:
            os.fsync(written.fileno())
        files[file.name] = {"sha256": sha256_file(file), "bytes": file.stat().st_size}
    write_json(folder / MANIFEST, {"files": files})


def digest(folder: Path) -> str:
    """The bundle's name: sha256 of its MANIFEST.json. Raises BundleDamaged where there is none."""
    return sha256_bytes(_manifest(folder))


def verify(folder: Path) -> None:
    """Hash every file against MANIFEST.json. Raises BundleDamaged naming all that is missing, altered or extra."""
    try:
        files = {
            name: (entry["sha256"], entry["bytes"]) for name, entry in json.loads(_manifest(folder))["files"].items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BundleDamaged(f"{folder / MANIFEST} is no manifest of a bundle: {error!r}") from None
    problems = []
    for name, (sha256, size) in files.items():
        file = folder / name
        if Path(name).name != name or file.is_symlink():  # a manifest may only speak of this folder's own files
            problems.append(f"{name} is not a plain file of the folder")
        elif not file.is_file():
            problems.append(f"{name} is missing")
        elif file.stat().st_size != size:
            problems.append(f"{name} has {file.stat().st_size} bytes, {size} expected")
        elif (found := sha256_file(file)) != sha256:
            problems.append(f"{name} is altered (sha256 {found}, {sha256} expected)")
    problems += [
        f"{file.name} is not in the manifest"
        for file in sorted(folder.iterdir())
        if file.name not in files and file.name != MANIFEST
    ]
    if problems:
        raise BundleDamaged(
            f"the bundle in {folder} is damaged: {'; '.join(problems)}. Restore it from the release store"
        )


def read(folder: Path) -> dict:
    """bundle.json of a bundle. Raises BundleDamaged for one that is missing or of another schema version."""
    file = folder / "bundle.json"
    if not file.is_file():
        raise BundleDamaged(f"{folder} holds no bundle (no bundle.json): run the bundle stage first")
    about = read_json(file)
    if about.get("schema") != SCHEMA_VERSION:
        raise BundleDamaged(
            f"{file} has schema {about.get('schema')}, this version of Evergreen reads {SCHEMA_VERSION}"
        )
    return about


def _manifest(folder: Path) -> bytes:
    if not (folder / MANIFEST).is_file():
        raise BundleDamaged(f"{folder} holds no bundle (no {MANIFEST}): run the bundle stage first")
    return (folder / MANIFEST).read_bytes()


if __name__ == "__main__":
    from tasks.stage import main

    main("bundle")
