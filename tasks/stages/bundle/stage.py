"""Stage `bundle`: all that serving and monitoring need, in one folder with a manifest.

    artifacts/bundle/
      model.onnx           the finished model, see tasks.stages.calibrate.export
      weights.safetensors  the same weights for further training: backbone.<timm name>, head.weight, head.bias
      bundle.json          what the model is; see `describe`
      ood.safetensors      what the out-of-distribution score compares with
      reference.parquet    the model's own drift reference, see tasks.stages.bundle.reference
      card.md              model card
      MANIFEST.json        {"files": {name: {sha256, bytes}}}, written last
    metrics/bundle.json

`digest` (the sha256 of MANIFEST.json) names the bundle.
"""

import importlib.metadata
import platform
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from tasks.common import artifacts
from tasks.common.artifacts import used_params, without_used
from tasks.common.errors import StageInputError
from tasks.common.files import atomic_dir, content_key, parse_yaml, read_json, write_json
from tasks.common.params import STAGE_SECTIONS, BundleParams, GateParams, ImagesParams, Section, load_params
from tasks.common.schemas import SPLITS
from tasks.releases.bundle import SCHEMA_VERSION, BundleDamaged, digest, read, write_manifest
from tasks.scoring.skill import Skill

STAGES_BEFORE = ("inspect", "validate", "embed", "clean", "train_backbone", "train_head", "calibrate", "evaluate")
LIBRARIES = ("numpy", "onnx", "onnxruntime", "pillow", "pyarrow", "timm", "torch")


def run(root: Path, *, images: ImagesParams, bundle: BundleParams, gate: GateParams) -> None:
    """Write artifacts/bundle/ and metrics/bundle.json.

    Raises StageInputError if an earlier stage has not run, or ran with other params than params.yaml has now.
    """
    from safetensors.numpy import load_file

    refuse_other_params(root, images)
    files = {
        "backbone": artifacts.network_weights(root),
        "head": artifacts.stage_output(root / "artifacts/train_head/head.safetensors", "train_head"),
    }
    weights = {f"{part}.{name}": value for part, file in files.items() for name, value in load_file(file).items()}
    write_bundle(root, artifacts.training_rows(root), weights, images=images, bundle=bundle, gate=gate)


def write_bundle(
    root: Path,
    rows: dict[str, pa.Table],
    weights: dict[str, np.ndarray],
    *,
    images: ImagesParams,
    bundle: BundleParams,
    gate: GateParams,
    adopted: dict[str, str] | None = None,
) -> None:
    """What `run` does, for the model under artifacts/calibrate/ whatever made it.

    rows: of artifacts.training_rows; weights: for weights.safetensors; adopted: {file, sha256} of a model that was
    trained elsewhere.
    """
    from safetensors.numpy import save_file

    from tasks.stages.bundle import card, reference

    about = describe(root, rows, images, bundle.name, gate) | ({"adopted": adopted} if adopted else {})
    with atomic_dir(root / "artifacts/bundle") as folder:
        for name in ("model.onnx", "ood.safetensors"):
            file = artifacts.stage_output(root / "artifacts/calibrate" / name, "calibrate")
            shutil.copyfile(file, folder / name)
        save_file(weights, folder / "weights.safetensors")
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


def describe(root: Path, rows: dict[str, pa.Table], images: ImagesParams, name: str, gate: GateParams) -> dict:
    """bundle.json, from what earlier stages found and measured. rows: of artifacts.training_rows."""
    calibration = read_json(artifacts.stage_output(root / "artifacts/calibrate/calibration.json", "calibrate"))
    model = read_json(artifacts.stage_output(root / artifacts.FOLDER / "model.json", "train_backbone"))
    artifacts.stage_output(root / "metrics/evaluate.json", "evaluate")
    evaluated = read_json(root / "metrics/evaluate.json")
    files = {stage: root / "metrics" / f"{stage}.json" for stage in STAGES_BEFORE}
    return {
        "schema": SCHEMA_VERSION,
        "name": name,
        "task": calibration["task"],
        "classes": calibration["classes"],
        "backbone": {
            key: model[key]
            for key in ("backbone", "pretrained", "mean", "std", "feature_dim", "classes")
            if key in model
        },
        "preprocess": images.model_dump(),
        "temperature": calibration["temperature"],
        "scaling": calibration["scaling"],
        "thresholds": calibration["thresholds"],
        "weights": calibration["weights"],
        "ood": calibration["ood"],
        "conformal": calibration.get("conformal"),
        "hierarchy": calibration.get("hierarchy"),
        "data": {
            **data_version(root),
            "images": {split: per_class(rows[split], calibration["classes"]) for split in SPLITS},
        },
        "provisional": provisional_reason(evaluated, gate),
        "git_revision": git_revision(root),
        "params": load_params(root / "params.yaml").model_dump(mode="json", by_alias=True),
        "metrics": {stage: without_used(read_json(file)) for stage, file in files.items() if file.is_file()},
        "versions": evergreen_version(root)
        | {"python": platform.python_version()}
        | {library: importlib.metadata.version(library) for library in LIBRARIES},
    }


def provisional_reason(evaluated: dict, gate: GateParams) -> str | None:
    """Why the model is provisional, for people; None: it is not, or the user wrote down what is enough."""
    if gate.first_model is not None or "skill" not in evaluated:
        return None
    skill = Skill(**evaluated["skill"])
    return skill.reason if skill.provisional else None


def evergreen_version(root: Path) -> dict[str, str]:
    """{"evergreen": its version}, of the code at `root`.

    Read as text: an import would make the version code of this stage, and each new version would run it again.
    """
    file = root / "tasks/common/version.py"
    found = re.search(r'^VERSION = "(.+)"', file.read_text(encoding="utf-8"), re.MULTILINE) if file.is_file() else None
    return {"evergreen": found[1]} if found else {}


def per_class(rows: pa.Table, classes: list[str]) -> dict[str, int]:
    """Number of images of each class; an image with several labels counts for each of them."""
    labels = rows["label"].combine_chunks()
    names = labels.flatten() if pa.types.is_list(labels.type) else labels
    found = Counter(names.to_pylist())
    return {name: found[name] for name in classes}


def data_version(root: Path) -> dict[str, str | None]:
    """The data that made the model: a hash over accepted ids and labels, and data.dvc's md5 if there is one."""
    accepted = pq.read_table(root / "artifacts/validate/accepted.parquet", columns=["id", "label"])
    pairs = sorted(zip(accepted["id"].to_pylist(), accepted["label"].to_pylist(), strict=True), key=itemgetter(0))
    pointer = root / "data.dvc"
    tracked = parse_yaml(pointer.read_text())["outs"][0]["md5"] if pointer.is_file() else None
    return {"sha256": content_key(pairs), "dvc_md5": tracked}


def git_revision(root: Path) -> str | None:
    """The commit checked out at `root`; None outside git or before the first commit."""
    found = subprocess.run(["git", "rev-parse", "--verify", "-q", "HEAD"], cwd=root, capture_output=True, text=True)
    return found.stdout.strip() or None


def refuse_other_params(root: Path, images: ImagesParams) -> None:
    """Raise StageInputError when what earlier stages ran with is not what params.yaml says.

    DVC keeps them equal, except for what it does not see (a key it ignores, a default that changed with the code).
    The bundle would then record params that did not make it.
    """
    params = load_params(root / "params.yaml")
    model = read_json(artifacts.stage_output(root / artifacts.FOLDER / "model.json", "train_backbone"))
    spec = _plain(images) | {key: model[key] for key in ("resolution", "fit")}
    trained = _plain(params.train_backbone) | {key: model[key] for key in ("backbone", "pretrained")}
    used = [("train_backbone", "images", spec), ("train_backbone", "train_backbone", trained)]
    for stage in STAGES_BEFORE:
        if (root / "metrics" / f"{stage}.json").is_file():
            used += [(stage, section, values) for section, values in used_params(root, stage).items()]
    differences = [
        line
        for stage, section, values in used
        for line in _differences(f"the stage {stage}", section, values, params.section(section))
    ]
    if differences:
        raise StageInputError(
            "earlier stages ran with other params than params.yaml has now:\n  "
            + "\n  ".join(dict.fromkeys(differences))
            + "\nA bundle of them would record params that did not make it. Run these stages again (`dvc repro --force "
            "STAGE`). If the key is not written out in params.yaml, write it there with the value you want."
        )


def check_params(folder: Path, params_file: Path) -> None:
    """Raise BundleDamaged unless the params recorded in the bundle in `folder` are those of `params_file`.

    Names every key that differs, of the sections that stages read. An adopted model has a preprocessing of its own,
    not that of `images`.
    """
    about, params = read(folder), load_params(params_file)
    recorded = [(name, about["params"][name]) for name in STAGE_SECTIONS if name in about["params"]]
    differences = [
        line for name, found in recorded for line in _differences("the bundle", name, found, params.section(name))
    ]
    if "adopted" not in about:
        differences += _differences("the bundle's preprocess", "images", about["preprocess"], params.images)
    if differences:
        raise BundleDamaged(
            f"the bundle in {folder} was not made with {params_file}:\n  "
            + "\n  ".join(differences)
            + "\nRun the stage bundle again (`dvc repro --force bundle`), or start a new run."
        )


def _differences(who: str, path: str, found: dict, wanted: Section) -> list[str]:
    """A line for every leaf of `found`, recorded values of the section `wanted`, that is not as in `wanted`."""
    with suppress(ValidationError):  # recorded under another schema: compared as it is
        found = _plain(type(wanted).model_validate(found))  # a key newer than the record gets its default
    return list(_unequal(who, path, found, _plain(wanted)))


def _plain(section: Section) -> dict[str, Any]:
    return section.model_dump(mode="json", by_alias=True)


def _unequal(who: str, path: str, found: Any, wanted: Any) -> Iterator[str]:
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in sorted({*found, *wanted}):
            yield from _unequal(who, f"{path}.{key}" if path else key, found.get(key), wanted.get(key))
    elif found != wanted:
        yield f"{path}: {who} has {found!r}, params.yaml {wanted!r}"
