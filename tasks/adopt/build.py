"""Turn a model that was trained elsewhere into a bundle, measured on this project's held-out images.

Nothing is trained, and the model's answers stay the same: only a calibration, which changes no answer, and an
out-of-distribution score are fitted. The outputs lie where the stages of a trained model would leave theirs:

    artifacts/calibrate/, metrics/calibrate.json     the finished model; see tasks.stages.calibrate.stage
    artifacts/evaluate/, metrics/evaluate.json       see tasks.stages.evaluate.stage
    artifacts/bundle/, metrics/bundle.json           see tasks.stages.bundle.stage; `adopted` in bundle.json names
                                                     the file it came from

N images, S the side of the input in pixels, K classes, D feature dimensions.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TextIO, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.adopt.deployed import Deployed
from tasks.adopt.order import MOST, check_order
from tasks.common import artifacts
from tasks.common.errors import DataError, EvergreenError
from tasks.common.files import sha256_file, write_json
from tasks.common.params import CalibrateParams, ImagesParams, Params
from tasks.common.schemas import SPLITS
from tasks.common.written import tidy
from tasks.dataset.pixels import pixel_table
from tasks.inference.onnx_model import OnnxModel
from tasks.inference.ood.scores import BANK_ROWS, Training, bank_rows, strata
from tasks.inference.scaling import Scaling, read_scaling, scale
from tasks.scoring.targets import encode
from tasks.sources.tables import open_text
from tasks.stages.calibrate.calibration import (
    PARITY_IMAGES,
    HeldOut,
    fit_calibration,
    training_samples,
    write_calibration,
)
from tasks.stages.calibrate.choice import Seen
from tasks.stages.calibrate.unfamiliar import PROBED_IMAGES, FittedScore, Probed, fit_score

BATCH = 256  # images in memory at once
FITS = get_args(ImagesParams.model_fields["fit"].annotation)


class Model(Protocol):
    """A deployed model as the user gave it."""

    feature_dim: int

    def outputs(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(logits (N, K), features (N, D)) of (N, S, S, 3) uint8."""

    def write(self, path: Path, scaling: Scaling, sample: np.ndarray) -> float:
        """Write the finished model.onnx; return its largest difference from the model as given, on `sample`."""

    def tensors(self) -> dict[str, np.ndarray]:
        """The model's weights, for weights.safetensors."""


def read_classes(text: str) -> list[str]:
    """Class names of `text`: a file with one name per line, or the names themselves, separated by commas.

    A .json file is a list of names, or an id2label or class_to_idx as trainers write them.
    """
    file = Path(text)
    if len(text) < 4096 and file.is_file():
        content = open_text(file, "a list of classes")[0]
        with content:
            lines = _json_classes(file, content) if file.suffix.lower() == ".json" else list(content)
    else:
        lines = text.split(",")
    names = [name for line in lines if (name := tidy(line))]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise EvergreenError(f"--classes names {repeated[0]!r} more than once")
    if len(names) < 2:
        raise EvergreenError(
            f"--classes {text!r} is not a file, and has fewer than two names: give a file with one name per line, or "
            "names separated by commas"
        )
    return names


def _json_classes(file: Path, content: TextIO) -> list[str]:
    try:
        found = json.load(content)
        found = found.get("id2label", found) if isinstance(found, dict) else found
        if isinstance(found, dict):  # {"0": "cat"} or {"cat": 0}
            pairs = [(int(key), name) if isinstance(name, str) else (int(name), key) for key, name in found.items()]
            if sorted(place for place, _ in pairs) != list(range(len(pairs))):
                raise ValueError("its numbers are not 0, 1, 2, ...")
            found = [name for _, name in sorted(pairs)]
        if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
            raise ValueError("expected a list of names, or {number: name}")
    except (ValueError, TypeError, RecursionError) as error:
        raise EvergreenError(f"--classes {file} cannot be read: {error}") from None
    return found


def open_model(deployed: Deployed, task: str) -> Model:
    """Open the model and check it against what the user says about it. Raises EvergreenError."""
    if not deployed.path.is_file():
        raise EvergreenError(f"{deployed.path} is not a file: expected an .onnx or .safetensors file")
    if not all(0 < value <= 10 for value in deployed.std):
        raise EvergreenError(f"--std {tuple(deployed.std)}: expected three numbers above 0, of channels scaled to 0..1")
    if deployed.fit not in FITS:
        raise EvergreenError(f"--fit {deployed.fit!r}: expected one of {', '.join(FITS)}")
    if deployed.path.suffix == ".safetensors":
        from tasks.adopt.timm import AdoptedTorch

        return AdoptedTorch(deployed, task)
    from tasks.adopt.onnx import AdoptedOnnx

    return AdoptedOnnx(deployed, task)


def labelled_rows(root: Path, classes: Sequence[str]) -> tuple[dict[str, pa.Table], dict[str, int]]:
    """(labelled accepted rows by split, number of images for each label that the model does not know).

    Rows with an unknown label are left out. Raises DataError if the calibration or test split is then empty.
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
                f"({', '.join(map(repr, list(classes)[:10]))}); other labels there: {found}. Labels and classes must "
                "be spelt alike."
            )
    return by_split, unknown


@dataclass(frozen=True)
class Adoption:
    """What every step of one adoption works on."""

    root: Path
    deployed: Deployed
    model: Model
    task: str
    by_split: dict[str, pa.Table]  # of labelled_rows
    images: ImagesParams  # the model's own size and fit
    params: Params

    def outputs(self, rows: pa.Table) -> tuple[np.ndarray, np.ndarray]:
        """(logits (N, K), features (N, D)) of `rows` under the model as given."""
        pixels = pixel_table(self.root, rows, self.images)
        parts = [self.model.outputs(block) for _, block in pixels.batches(BATCH)]
        return tuple(np.concatenate(part) for part in zip(*parts, strict=True))


def build(root: Path, deployed: Deployed, params: Params) -> dict[str, int]:
    """Write the outputs listed at the top of this module under `root`, where `validate` has run.

    Returns the number of images for each label that the model does not know; they are left out. Raises EvergreenError.
    """
    _, task = artifacts.classes_and_task(root)
    model = open_model(deployed, task)
    by_split, unknown = labelled_rows(root, deployed.classes)
    images = params.images.model_copy(update={"resolution": deployed.size, "fit": deployed.fit})
    adoption = Adoption(root, deployed, model, task, by_split, images, params)
    if task == "multiclass":
        parts = (by_split[split].slice(0, MOST) for split in ("calibration", "test"))
        check_order(deployed.classes, *(_answers(adoption, rows) for rows in parts))
    calibration = _calibrate(adoption)
    _evaluate(adoption, calibration)
    _bundle(adoption)
    return unknown


def _answers(adoption: Adoption, rows: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """(targets (N,), answers (N,)) of labelled `rows`."""
    targets = encode(rows["label"], adoption.deployed.classes, adoption.task)
    return targets, adoption.outputs(rows)[0].argmax(axis=1)


def _calibrate(adoption: Adoption) -> dict:
    """Write what the stage `calibrate` writes; returns calibration.json."""
    model, classes, task = adoption.model, adoption.deployed.classes, adoption.task
    labelled, train = adoption.by_split["calibration"], adoption.by_split["train"]
    params = costs_of(classes, adoption.params.calibrate)
    logits, features = adoption.outputs(labelled)
    held_out = HeldOut(
        classes, task, encode(labelled["label"], classes, task), logits, features, labelled["group"].to_pylist()
    )
    known = training_samples(train if len(train) else labelled, BANK_ROWS)  # each costs a run of the network
    of_known, known_features = adoption.outputs(known)
    training = Training(known_features, of_known, encode(known["label"], classes, task))
    sample = pixel_table(adoption.root, labelled.slice(0, PARITY_IMAGES), adoption.images)[:]
    rows = bank_rows(strata(held_out.targets), PROBED_IMAGES)
    probed = labelled.take(rows)
    pixels = pixel_table(adoption.root, probed, adoption.images)[:]

    def score_of(finished: OnnxModel) -> FittedScore:
        of = Probed(pixels, probed["id"].to_pylist(), strata(held_out.targets[rows]))
        return fit_score(finished, of, Seen(features, logits), held_out.targets, training, params, task)

    def export(path: Path, scaling: Scaling) -> float:
        return model.write(path, scaling, sample)

    return write_calibration(adoption.root, fit_calibration(held_out, params), export, score_of)


def costs_of(classes: Sequence[str], params: CalibrateParams) -> CalibrateParams:
    """`params` without the costs of classes that the model lacks: params.yaml speaks of the project's classes."""
    costs = {name: cost for name, cost in params.cost_false_negative.items() if name in classes}
    return params.model_copy(update={"cost_false_negative": costs})


def _evaluate(adoption: Adoption, calibration: dict) -> None:
    from tasks.stages.evaluate.stage import measure

    def parity(finished: OnnxModel, pixels) -> dict:
        places = np.arange(min(PARITY_IMAGES, len(adoption.by_split["test"])))
        logits, _ = adoption.model.outputs(pixels[places])
        expected = scale(logits, read_scaling(calibration), adoption.task)
        difference = float(np.abs(expected - finished(pixels[places]).probabilities).max())
        return {"max_difference": float(f"{difference:.3g}"), "images": len(places)}

    measure(adoption.root, adoption.by_split, calibration, adoption.images, adoption.params.evaluate, parity)


def _bundle(adoption: Adoption) -> None:
    from tasks.stages.bundle.stage import write_bundle

    deployed = adoption.deployed
    about = {
        "backbone": deployed.backbone or "onnx",
        "pretrained": "adopted",
        "mean": list(deployed.mean),
        "std": list(deployed.std),
        "feature_dim": adoption.model.feature_dim,
    }
    write_json(adoption.root / artifacts.FOLDER / "model.json", about)
    write_bundle(
        adoption.root,
        adoption.by_split,
        adoption.model.tensors(),
        images=adoption.images,
        bundle=adoption.params.bundle,
        gate=adoption.params.gate,
        adopted={"file": deployed.path.name, "sha256": sha256_file(deployed.path), "form": deployed.form or "ONNX"},
    )
