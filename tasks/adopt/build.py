"""An already deployed model as a bundle of our own, measured on this project's held-out images. Nothing is trained.

What it answers stays as it was: of its own only a temperature is fitted (it changes no answer), and an
out-of-distribution score. Left where the stages of a trained model would leave the same:

    artifacts/calibrate/, metrics/calibrate.json     the finished model; see tasks.stages.calibrate.stage
    artifacts/evaluate/, metrics/evaluate.json       see tasks.stages.evaluate.stage
    artifacts/bundle/, metrics/bundle.json           see tasks.stages.bundle.stage; bundle.json says where it came from
    (`adopted`)

N images, S the side of the input in pixels, K classes, D feature dimensions.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.common import artifacts
from tasks.common.errors import DataError, EvergreenError
from tasks.common.files import atomic_dir, atomic_path, sha256_file, write_json
from tasks.common.params import ImagesParams, Params
from tasks.common.schemas import SPLITS
from tasks.dataset.pixels import pixel_table
from tasks.inference import ood, thresholds
from tasks.inference import temperature as inference_temperature
from tasks.inference.onnx_model import OnnxModel
from tasks.scoring import metrics
from tasks.scoring.targets import encode

BATCH = 256  # images in memory at once
PARITY_IMAGES = 32
FITS = get_args(ImagesParams.model_fields["fit"].annotation)


@dataclass(frozen=True)
class Deployed:
    """What the user says of the model in the file `path`."""

    path: Path
    classes: list[str]  # all of them, in the model's order
    size: int  # S
    mean: Sequence[float]  # of three channels scaled to 0..1
    std: Sequence[float]
    fit: str = "squash"  # as images.fit
    backbone: str | None = None  # timm name; None: the file is ONNX
    features: str | None = None  # name of the ONNX tensor to use as features; None: found


class Source(Protocol):
    """A model as it came."""

    feature_dim: int

    def outputs(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(logits (N, K), features (N, D)) of (N, S, S, 3) uint8."""

    def write(self, path: Path, temperature: float, sample: np.ndarray) -> float:
        """Write the finished model.onnx; returns its largest difference from the model as it came."""

    def tensors(self) -> dict[str, np.ndarray]:
        """Its weights, for weights.safetensors."""


def read_classes(text: str) -> list[str]:
    """Class names of `text`: a file with one a line, or the names themselves, separated by commas."""
    file = Path(text)
    if len(text) < 4096 and file.is_file():
        names = [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    else:
        names = [name.strip() for name in text.split(",") if name.strip()]
    if doubled := sorted({name for name in names if names.count(name) > 1}):
        raise EvergreenError(f"--classes names {doubled[0]!r} more than once")
    if len(names) < 2:
        raise EvergreenError(f"--classes {text!r}: no such file, and fewer than two names: give a file, one a line")
    return names


def open_source(model: Deployed, task: str) -> Source:
    """The model, checked against what the user says of it. Raises EvergreenError."""
    if not model.path.is_file():
        raise EvergreenError(f"{model.path} is no file: name an .onnx or a .safetensors file")
    if not all(0 < value <= 10 for value in model.std):
        raise EvergreenError(f"--std {tuple(model.std)}: three numbers above 0 expected, of channels scaled to 0..1")
    if model.fit not in FITS:
        raise EvergreenError(f"--fit {model.fit!r}: one of {', '.join(FITS)} expected")
    about = {"classes": model.classes, "size": model.size, "mean": model.mean, "std": model.std, "task": task}
    if model.path.suffix == ".safetensors":
        from tasks.adopt.timm import AdoptedTorch

        if model.backbone is None:
            raise EvergreenError(f"{model.path} holds weights alone: --backbone says which timm model they are of")
        return AdoptedTorch(model.path, backbone=model.backbone, **about)
    from tasks.adopt.onnx import AdoptedOnnx

    return AdoptedOnnx(model.path, features=model.features, **about)


def rows_of(root: Path, classes: Sequence[str]) -> tuple[dict[str, pa.Table], dict[str, int]]:
    """(labelled accepted rows by split, images of labels the model does not know, which are left out).

    Raises DataError where nothing is left to measure or to calibrate on.
    """
    accepted = pq.read_table(artifacts.stage_output(root / "artifacts/validate/accepted.parquet", "validate"))
    accepted = accepted.filter(pc.is_valid(accepted["label"]))
    unknown: dict[str, int] = {}
    keep = []
    for label in accepted["label"].to_pylist():
        names = [label] if isinstance(label, str) else label
        strange = [name for name in names if name not in classes]
        for name in strange:
            unknown[name] = unknown.get(name, 0) + 1
        keep.append(not strange)
    accepted = accepted.filter(pa.array(keep, pa.bool_()))
    by_split = {split: accepted.filter(pc.equal(accepted["split"], split)) for split in SPLITS}
    for split in ("calibration", "test"):
        if not len(by_split[split]):
            found = ", ".join(map(repr, list(unknown)[:10])) or "none"
            raise DataError(
                f"the {split} split has no image labelled with one of the model's {len(classes)} classes "
                f"({', '.join(map(repr, list(classes)[:10]))}); other labels there: {found}. They must be spelt alike."
            )
    return by_split, unknown


def build(root: Path, model: Deployed, params: Params) -> dict[str, int]:
    """Write everything the module's text names, under `root`, where `validate` has run.

    Returns the labels the model does not know with their images, which were left out. Raises EvergreenError.
    """
    _, task = artifacts.classes_and_task(root)
    source = open_source(model, task)
    by_split, unknown = rows_of(root, model.classes)
    images = ImagesParams(size=model.size, fit=model.fit, max_pixels=params.images.max_pixels)
    found = _calibrate(root, source, model, by_split, images, params, task)
    _evaluate(root, source, model, by_split, images, params, found)
    _bundle(root, source, model, by_split, images, params, found)
    return unknown


def _outputs(root: Path, source: Source, rows: pa.Table, images: ImagesParams) -> tuple[np.ndarray, np.ndarray]:
    parts = [source.outputs(block) for _, block in pixel_table(root, rows, images).batches(BATCH)]
    return tuple(np.concatenate(part) for part in zip(*parts, strict=True))


def _calibrate(
    root: Path,
    source: Source,
    model: Deployed,
    by_split: dict[str, pa.Table],
    images: ImagesParams,
    params: Params,
    task: str,
) -> dict:
    """calibration.json of the model, which it writes with its files and metrics."""
    from safetensors.numpy import save_file

    held_out = by_split["calibration"]
    logits, features = _outputs(root, source, held_out, images)
    targets = encode(held_out["label"], model.classes, task)
    temperature = inference_temperature.fit_temperature(logits, targets)
    calibrated = inference_temperature.probabilities(logits, temperature, task)
    costs = {name: c for name, c in params.calibrate.cost_false_negative.items() if name in model.classes}
    if task == "multiclass":
        bounds = thresholds.multiclass(model.classes, costs)
    else:
        bounds = thresholds.multilabel(calibrated, targets, model.classes, costs)
    bank = np.empty((0, source.feature_dim))
    if params.calibrate.ood_method == "knn":
        known = by_split["train"] if len(by_split["train"]) else held_out
        strata = np.array([str(label) for label in known["label"].to_pylist()])
        bank = _outputs(root, source, known.take(ood.bank_rows(strata)), images)[1]
    rejection = params.calibrate.ood_false_rejection
    about, tensors = ood.fit(params.calibrate.ood_method, bank, features, logits, rejection, task)
    folder = root / "artifacts/calibrate"
    sample = pixel_table(root, held_out.slice(0, PARITY_IMAGES), images)[:]
    parity = source.write(folder / "model.onnx", temperature, sample)
    with atomic_path(folder / "ood.safetensors") as temporary:
        save_file(tensors, temporary)
    found = {
        "task": task,
        "classes": model.classes,
        "temperature": temperature,
        "thresholds": dict(zip(model.classes, bounds.tolist(), strict=True)),
        "ood": about,
    }
    write_json(folder / "calibration.json", found)
    finished, flagged = OnnxModel(folder / "model.onnx"), {}
    for name, pixels in ood.probes(model.size).items():
        out = finished(pixels)
        flagged[name] = float(np.mean(ood.score(out.features, out.logits, about, tensors) > about["threshold"]))
    before = inference_temperature.probabilities(logits, 1.0, task)
    write_json(
        root / "metrics/calibrate.json",
        {
            "images": len(held_out),
            "temperature": temperature,
            "log_loss_before": metrics.log_loss(before, targets),
            "log_loss_after": metrics.log_loss(calibrated, targets),
            "ece_before": metrics.ece(before, targets),
            "ece_after": metrics.ece(calibrated, targets),
            "ood": {
                "method": about["method"],
                "false_rejection": about["false_rejection"],
                "bank": len(bank),
                "flagged": flagged,
            },
            "parity": parity,
        },
    )
    return found


def _evaluate(
    root: Path,
    source: Source,
    model: Deployed,
    by_split: dict[str, pa.Table],
    images: ImagesParams,
    params: Params,
    found: dict,
) -> None:
    from tasks.stages.evaluate.stage import measure

    def parity(finished: OnnxModel, pixels) -> dict:
        places = np.arange(min(PARITY_IMAGES, len(by_split["test"])))
        logits, _ = source.outputs(pixels[places])
        expected = inference_temperature.probabilities(logits, found["temperature"], found["task"])
        difference = float(np.abs(expected - finished(pixels[places]).probabilities).max())
        return {"max_difference": float(f"{difference:.3g}"), "images": len(places)}

    measure(root, by_split, model.classes, found["task"], found, images, params.evaluate, parity)


def _bundle(
    root: Path,
    source: Source,
    model: Deployed,
    by_split: dict[str, pa.Table],
    images: ImagesParams,
    params: Params,
    found: dict,
) -> None:
    from safetensors.numpy import save_file

    from tasks.releases import bundle
    from tasks.stages.bundle import card, reference, stage

    about = {
        "backbone": model.backbone or "onnx",
        "pretrained": "adopted",
        "mean": list(model.mean),
        "std": list(model.std),
        "feature_dim": source.feature_dim,
    }
    write_json(root / artifacts.FOLDER / "model.json", about)
    described = stage.describe(root, by_split, images, params.bundle.name)
    described["adopted"] = {"file": model.path.name, "sha256": sha256_file(model.path)}
    with atomic_dir(root / "artifacts/bundle") as folder:
        for name in ("model.onnx", "ood.safetensors"):
            shutil.copyfile(root / "artifacts/calibrate" / name, folder / name)
        tensors = {name: np.ascontiguousarray(value) for name, value in source.tensors().items()}
        save_file(tensors, folder / "weights.safetensors")
        origins = pq.read_table(root / "artifacts/inspect/samples.parquet", columns=["id", "origin"])
        chosen = reference.choose(by_split, origins, params.bundle.reference_rows)
        table = reference.build(root, chosen, folder / "model.onnx", images, found["ood"], found["task"])
        pq.write_table(table, folder / "reference.parquet", compression="zstd", row_group_size=256)
        write_json(folder / "bundle.json", described)
        (folder / "card.md").write_text(card.render(described), encoding="utf-8")
        bundle.write_manifest(folder)
    write_json(
        root / "metrics/bundle.json",
        {
            "digest": bundle.digest(root / "artifacts/bundle"),
            "size_mb": round(sum(f.stat().st_size for f in (root / "artifacts/bundle").iterdir()) / 1e6, 3),
            "reference_rows": len(table),
        },
    )
