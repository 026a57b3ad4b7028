"""Spoil the head of a model, or the labels that it is fitted on, for benchmarks.gate_sabotage.

K classes, D feature dimensions.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks import gate_graphs
from tasks.common.artifacts import classes_and_task, training_rows
from tasks.common.files import atomic_path
from tasks.common.params import load_params
from tasks.models.head import read_head
from tasks.models.stage1 import stage1_features
from tasks.scoring.targets import encode

MODEL = "artifacts/calibrate/model.onnx"


def write_head(project: Path, weight: np.ndarray, bias: np.ndarray) -> None:
    from safetensors.numpy import save_file

    with atomic_path(project / "artifacts/train_head/head.safetensors") as temporary:
        parts = {"weight": weight, "bias": bias}  # safetensors stores memory as it lies
        save_file({name: np.ascontiguousarray(part, np.float32) for name, part in parts.items()}, temporary)


def change_head(change: Callable[[np.ndarray, np.ndarray, np.ndarray], None], project: Path) -> None:
    """change: of weight (K, D), bias (K,) in place; it gets the classes' order by training images, most first.

    The exported model gets the same head, as if it had been trained so.
    """
    head, (classes, task) = read_head(project), classes_and_task(project)
    counts = np.bincount(encode(training_rows(project)["train"]["label"], classes, task), minlength=len(classes))
    weight, bias = head.weight.copy(), head.bias.copy()
    change(weight, bias, np.argsort(-counts))
    write_head(project, weight, bias)
    pairs = [(head.weight, weight), (head.weight.T, weight.T), (head.bias, bias)]
    gate_graphs.edit(MODEL, partial(gate_graphs.replaced, pairs), project)


def never(place: int) -> Callable:
    def change(weight: np.ndarray, bias: np.ndarray, order: np.ndarray) -> None:
        bias[order[place]] -= 1e3

    return change


def roll(weight: np.ndarray, bias: np.ndarray, order: np.ndarray) -> None:
    weight[:], bias[:] = np.roll(weight, 1, axis=0), np.roll(bias, 1)


def swap(weight: np.ndarray, bias: np.ndarray, order: np.ndarray) -> None:
    pair = order[:2]
    weight[pair], bias[pair] = weight[pair[::-1]], bias[pair[::-1]]


def lump(weight: np.ndarray, bias: np.ndarray, order: np.ndarray) -> None:
    weight[order[1]], bias[order[1]] = weight[order[0]], bias[order[0]] - 1e-3


def guess(weight: np.ndarray, bias: np.ndarray, order: np.ndarray) -> None:
    weight[:] = np.random.default_rng(0).normal(size=weight.shape) * weight.std()


def forget(weight: np.ndarray, bias: np.ndarray, order: np.ndarray) -> None:
    weight[:], bias[:] = 0, np.where(np.arange(len(bias)) == order[0], 1, 0)


def diverge(weight: np.ndarray, bias: np.ndarray, order: np.ndarray) -> None:
    weight[:] = np.nan


def refit(project: Path, poison: Callable[[dict, dict], None] | None = None) -> None:
    """Fit the head by ridge regression on the training images after `poison` changed (rows, labels) by split."""
    params, (classes, task) = load_params(project / "params.yaml"), classes_and_task(project)
    rows = training_rows(project)
    labels = {split: encode(rows[split]["label"], classes, task).copy() for split in ("train", "hard")}
    weights = {"train": np.ones(len(labels["train"])), "hard": np.zeros(len(labels["hard"]))}
    if poison is not None:
        poison(rows, labels | {"weights": weights})
    x = np.concatenate([stage1_features(project, rows[split], params.images)[:].astype(np.float64) for split in labels])
    y, w = np.concatenate(list(labels.values())), np.concatenate(list(weights.values()))
    counts = np.bincount(y, w, len(classes))
    w = w / np.maximum(counts, 1)[y]
    middle, spread = np.average(x, axis=0, weights=w), x.std(axis=0) + 1e-6
    z = (x - middle) / spread
    signs = np.where(y[:, None] == np.arange(len(classes)), 1.0, -1.0 / (len(classes) - 1))
    gram = z.T @ (z * w[:, None]) + 5.0 * np.eye(z.shape[1])
    weight = 5 * np.linalg.solve(gram, z.T @ (signs * w[:, None])).T / spread
    write_head(project, weight, -weight @ middle)


def shuffled(labels: np.ndarray, chosen: np.ndarray) -> None:
    """Every chosen label becomes the next class."""
    labels[chosen] = (labels[chosen] + 1) % (labels.max() + 1)


def broken_camera(rows: dict, labels: dict) -> None:
    source = np.array(rows["train"]["source"].to_pylist())
    names, counts = np.unique(source, return_counts=True)
    chosen = source == names[counts.argmax()]
    shuffled(labels["train"], chosen)
    labels["weights"]["train"][chosen] = 3


def broken_slice(rows: dict, labels: dict) -> None:
    chosen = np.array([{"name": "light", "value": "dim"} in (one or []) for one in rows["train"]["slice"].to_pylist()])
    shuffled(labels["train"], chosen)
    labels["weights"]["train"][chosen] = 3


def wrong_on_hard(rows: dict, labels: dict) -> None:
    shuffled(labels["hard"], np.ones(len(labels["hard"]), bool))
    labels["weights"]["hard"][:] = 4


def noisy_labels(rows: dict, labels: dict) -> None:
    shuffled(labels["train"], np.random.default_rng(0).random(len(labels["train"])) < 0.6)


def few_images(rows: dict, labels: dict) -> None:
    for k in np.unique(labels["train"]):
        labels["weights"]["train"][np.flatnonzero(labels["train"] == k)[4:]] = 0
