"""Stage `calibrate`: honest probabilities, thresholds, an out-of-distribution score, and the exported model.

    artifacts/calibrate/calibration.json   {classes, task, temperature, thresholds {class: t}, ood {...}}
    artifacts/calibrate/ood.safetensors    reference bank of the out-of-distribution score (empty for energy)
    artifacts/calibrate/model.onnx         the finished model, see tasks.export
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

from tasks import metrics, network, ood, thresholds
from tasks.errors import DataError
from tasks.files import atomic_path, read_json, write_json
from tasks.gather import ShardTable
from tasks.onnx_model import OnnxModel
from tasks.params import CalibrateParams, ImagesParams
from tasks.targets import encode

TEMPERATURES = (1 / 20, 20.0)  # outside, the logits say nothing or the network is broken
PARITY_IMAGES = 32  # real images the exported model is checked on
CHUNK = 4096  # rows of features in memory at once


def run(root: Path, *, images: ImagesParams, calibrate: CalibrateParams) -> None:
    """Write artifacts/calibrate/ and metrics/calibrate.json. Raises DataError without labelled calibration images."""
    from safetensors.numpy import save_file

    from tasks.export import Finished, export
    from tasks.pixels import pixel_table

    backbone, about = network.load(root)
    classes, task = about["classes"], about["task"]
    weight, bias = read_head(root)
    rows = network.training_rows(root)
    held_out = rows["calibration"]
    if not len(held_out):
        raise DataError(
            "the calibration split holds no labelled image: label some of it, or change data.split in params.yaml"
        )
    features = network.stage1_features(root, held_out, images)
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


def read_head(root: Path) -> tuple[np.ndarray, np.ndarray]:
    """(weight (K, D), bias (K,)) of train_head. Raises StageInputError when it was not trained."""
    from safetensors.numpy import load_file

    head = load_file(network.stage_output(root / "artifacts/train_head/head.safetensors", "train_head"))
    return head["weight"], head["bias"]


def read(root: Path) -> dict:
    """calibration.json. Raises StageInputError when the stage has not run."""
    return read_json(network.stage_output(root / "artifacts/calibrate/calibration.json", "calibrate"))


def head_logits(features: ShardTable, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """(N, K) float32 logits of (N, D) features, CHUNK rows at a time."""
    parts = [part.astype(np.float32) @ weight.T + bias for _, part in features.batches(CHUNK)]
    return np.concatenate(parts).astype(np.float32)


def probabilities(logits: np.ndarray, temperature: float, task: str) -> np.ndarray:
    """(N, K) of logits (N, K): softmax, or sigmoid for multi-label data."""
    scaled = logits.astype(np.float64) / temperature
    if task == "multilabel":
        return 1 / (1 + np.exp(-np.clip(scaled, -500, 500)))
    powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def fit_temperature(logits: np.ndarray, targets: np.ndarray) -> float:
    """The temperature of least log-loss (Guo et al. 2017, "On calibration of modern neural networks").

    logits: (N, K); targets: (N,) class indices or (N, K) of 0 and 1. log(temperature) has a standard normal prior,
    worth half a nat in all at a factor e: without it a split that the model gets all right would ask for infinite
    confidence, and 20 images for a wild one. The log-loss after is never above the one before. Raises DataError
    for logits that are not finite.
    """
    from scipy.optimize import minimize_scalar

    if broken := int((~np.isfinite(logits)).any(axis=1).sum()):
        raise DataError(
            f"{broken} of {len(logits)} calibration images have logits that are not finite: the network or its head "
            "diverged; lower train_backbone.learning_rate and train again"
        )
    task = "multiclass" if targets.ndim == 1 else "multilabel"

    def loss(log_temperature: float) -> float:
        found = metrics.log_loss(probabilities(logits, np.exp(log_temperature), task), targets)
        return found + log_temperature**2 / (2 * len(logits))

    grid = np.linspace(*np.log(TEMPERATURES), 21)  # 0, which changes nothing, is its middle
    best = int(np.argmin([loss(point) for point in grid]))
    found = minimize_scalar(loss, bounds=(grid[max(best - 1, 0)], grid[min(best + 1, 20)]), method="bounded").x
    return float(np.exp(min((found, grid[best]), key=loss)))


def _bank(root: Path, train: pa.Table, images: ImagesParams) -> np.ndarray:
    """(M, D) training features for the kNN score, as equal a number of each class as there are."""
    labels = train["label"].to_pylist()
    strata = np.array([value if isinstance(value, str) else "\n".join(sorted(value)) for value in labels])
    return network.stage1_features(root, train.take(ood.bank_rows(strata)), images)[:]


if __name__ == "__main__":
    from tasks.stage import main

    main("calibrate")
