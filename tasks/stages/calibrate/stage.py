"""Stage `calibrate`: honest probabilities, thresholds, an out-of-distribution score, and the exported model.

    artifacts/calibrate/calibration.json   {classes, task, temperature, thresholds {class: t}, ood {...}}
    artifacts/calibrate/ood.safetensors    reference bank of the out-of-distribution score (empty for energy)
    artifacts/calibrate/model.onnx         the finished model, see tasks.stages.calibrate.export
    metrics/calibrate.json

Everything is fitted on the calibration split: no earlier stage trained on it, though the best epoch and head were
chosen by it. The test split is not read. The head is class-balanced, so its probabilities mean "were all classes
equally frequent": where the calibration split has another mix, the temperature is a compromise with that mix.
A temperature never changes which class is the most probable.
N is the number of calibration images, K of classes, D of feature dimensions.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa

from tasks.common import artifacts
from tasks.common.errors import DataError
from tasks.common.files import atomic_path, read_json, write_json
from tasks.common.params import CalibrateParams, ImagesParams
from tasks.inference import ood, thresholds
from tasks.inference.onnx_model import OnnxModel
from tasks.inference.temperature import fit_temperature, probabilities
from tasks.models import stage1
from tasks.models.head import head_logits, read_head
from tasks.scoring import metrics
from tasks.scoring.targets import encode

PARITY_IMAGES = 32  # real images the exported model is checked on


def run(root: Path, *, images: ImagesParams, calibrate: CalibrateParams) -> None:
    """Write artifacts/calibrate/ and metrics/calibrate.json. Raises DataError without labelled calibration images."""
    from safetensors.numpy import save_file

    from tasks.dataset.pixels import pixel_table
    from tasks.stages.calibrate.export import Finished, export

    backbone, about = stage1.load(root)
    classes, task = about["classes"], about["task"]
    weight, bias = read_head(root)
    rows = artifacts.training_rows(root)
    held_out = rows["calibration"]
    if not len(held_out):
        raise DataError(
            "the calibration split holds no labelled image: label some of it, or change data.split in params.yaml"
        )
    features = stage1.stage1_features(root, held_out, images)
    logits = head_logits(features, weight, bias)
    targets = encode(held_out["label"], classes, task)
    temperature = fit_temperature(logits, targets)
    calibrated = probabilities(logits, temperature, task)
    if task == "multiclass":
        bounds = thresholds.multiclass(classes, calibrate.cost_false_negative)
    else:
        bounds = thresholds.multilabel(calibrated, targets, classes, calibrate.cost_false_negative)
    bank = _bank(root, rows["train"], images) if calibrate.ood_method == "knn" else np.empty((0, weight.shape[1]))
    about_ood, tensors = ood.fit(calibrate.ood_method, bank, features[:], logits, calibrate.ood_false_rejection, task)

    folder = root / "artifacts/calibrate"
    sample = pixel_table(root, held_out.slice(0, PARITY_IMAGES), images)[:]
    parity = export(folder / "model.onnx", Finished(backbone, about, weight, bias, temperature), sample)
    with atomic_path(folder / "ood.safetensors") as temporary:
        save_file(tensors, temporary)
    write_json(
        folder / "calibration.json",
        {
            "task": task,
            "classes": classes,
            "temperature": temperature,
            "thresholds": dict(zip(classes, bounds.tolist(), strict=True)),
            "ood": about_ood,
        },
    )
    model = OnnxModel(folder / "model.onnx")
    flagged = {}
    for name, pixels in ood.probes(about["size"]).items():
        out = model(pixels)
        flagged[name] = float(np.mean(ood.score(out.features, out.logits, about_ood, tensors) > about_ood["threshold"]))
    before = probabilities(logits, 1.0, task)
    write_json(
        root / "metrics/calibrate.json",
        {
            "images": len(held_out),
            "temperature": temperature,
            "log_loss_before": metrics.log_loss(before, targets),
            "log_loss_after": metrics.log_loss(calibrated, targets),
            "ece_before": metrics.ece(before, targets),
            "ece_after": metrics.ece(calibrated, targets),
            "thresholds": {"lowest": float(bounds.min()), "highest": float(bounds.max())},
            "to_review": float(1 - thresholds.sure(calibrated, bounds, task).mean()),
            "ood": {
                "method": about_ood["method"],
                "false_rejection": about_ood["false_rejection"],
                "bank": len(bank),
                "flagged": flagged,  # share of each of ood.probes: near 0 means the score is blind to it
            },
            "parity": parity,
        },
    )


def read(root: Path) -> dict:
    """calibration.json. Raises StageInputError when the stage has not run."""
    return read_json(artifacts.stage_output(root / "artifacts/calibrate/calibration.json", "calibrate"))


def _bank(root: Path, train: pa.Table, images: ImagesParams) -> np.ndarray:
    """(M, D) training features for the kNN score, as equal a number of each class as there are."""
    labels = train["label"].to_pylist()
    strata = np.array([value if isinstance(value, str) else "\n".join(sorted(value)) for value in labels])
    return stage1.stage1_features(root, train.take(ood.bank_rows(strata)), images)[:]
