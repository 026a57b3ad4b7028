"""What does int8 gain and cost? Speed of single images and accuracy on test, float against int8, on two sets.

    python -m benchmarks.int8 --trashnet FILE --belgium FILE [--seeds 2] [--images 1200] [--quick]

A linear classifier on the pretrained lite0 is exported as a run exports it, then quantised as `evergreen quantise` does
(tasks.int8), with ranges and the choice of what stays in float from calibration images. Both models answer the same
images in turn, so the speed is a ratio. Expected: some points at most, and 1.3 to 1.8 times as fast on a processor
without int8 dot products (AVX2); more with them. Small samples: the spread says how far to trust the points.
"""

import argparse
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from benchmarks.recipe_sets import split_by_group
from benchmarks.record import Figure, report
from tasks.common.files import atomic_path

LITE0, BOUND, RUNS = "tf_efficientnet_lite0", 0.01, 60
HALF = [0.5, 0.5, 0.5]


@dataclass(frozen=True)
class Measured:
    """One set and seed."""

    name: str
    speedup: float
    lost: float  # points of accuracy on test
    worst: float  # points lost by the class that loses most
    changed: float  # percent of answers
    in_float: int
    all_lost: float  # with every part in int8
    all_speedup: float


def read(file: Path, images: int, side: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
    """(pixels (N, S, S, 3), class numbers (N,), splits (N,), class names) of a sample of `file`."""
    from tasks.dataset.decode import preprocess

    table = pq.read_table(file)
    rows = np.sort(np.random.default_rng(seed).permutation(len(table))[:images])
    table = table.take(rows)
    labels = np.array(table["label"].to_pylist()).astype(str)
    group = next((name for name in ("pole", "group") if name in table.column_names), None)
    groups = np.array(table[group].to_pylist()).astype(str) if group else np.arange(len(labels))
    classes, targets = np.unique(labels, return_inverse=True)
    pixels = np.stack([preprocess(image["bytes"], side, "squash", 10**8) for image in table["image"].to_pylist()])
    return pixels, targets, split_by_group(labels, groups, seed), [str(name) for name in classes]


def float_model(pixels: np.ndarray, targets: np.ndarray, splits: np.ndarray, classes: int, file: Path) -> None:
    """Write the classifier on pretrained features, with its temperature, as model.onnx at `file`."""
    from sklearn.linear_model import LogisticRegression

    from tasks.backbones import timm_models
    from tasks.backbones.frozen import TorchFeatures
    from tasks.inference.scaling import Scaling
    from tasks.inference.temperature import fit_temperature
    from tasks.stages.calibrate.export import Finished, export

    side = pixels.shape[1]
    network = timm_models.create_model(LITE0, "auto", classes, side)
    features = TorchFeatures(network, HALF, HALF)(pixels)
    train, held = splits == "train", splits == "calibration"
    fitted = LogisticRegression(C=0.1, max_iter=300, class_weight="balanced").fit(features[train], targets[train])
    weight, bias = np.zeros((classes, features.shape[1])), np.full(classes, -30.0)
    if len(fitted.classes_) == 2:
        weight[fitted.classes_], bias[fitted.classes_] = np.vstack([-fitted.coef_, fitted.coef_]) / 2, 0.0
        bias[fitted.classes_] = np.array([-0.5, 0.5]) * fitted.intercept_
    else:
        weight[fitted.classes_], bias[fitted.classes_] = fitted.coef_, fitted.intercept_
    temperature = fit_temperature((features[held] @ weight.T + bias).astype(np.float32), targets[held])
    about = {"backbone": LITE0, "task": "multiclass", "resolution": side, "mean": HALF, "std": HALF}
    scaling = Scaling("temperature", temperature)
    export(file, Finished(network, about, weight.astype(np.float32), bias.astype(np.float32), scaling), pixels[:8])


def speedup(before, after, pixels: np.ndarray, runs: int) -> float:
    """Median time of `before` over that of `after` for one image each, in turn."""
    taken: list[list[float]] = [[], []]
    for place in range(-3, runs):
        for model, times in zip((before, after), taken, strict=True):
            start = time.perf_counter()
            model(pixels[place % len(pixels)][None])
            if place >= 0:
                times.append(time.perf_counter() - start)
    return float(np.median(taken[0]) / np.median(taken[1]))


def measure(name: str, file: Path, images: int, side: int, seed: int, quick: bool) -> Measured:
    """Float and int8 on the test split of one sample. quick: with few runs, and without a search."""
    from tasks.inference.onnx_model import OnnxModel
    from tasks.int8 import graph
    from tasks.int8.build import smallest_loss
    from tasks.int8.figures import by_class

    runs, bound = (5, 100.0) if quick else (RUNS, BOUND)
    pixels, targets, splits, classes = read(file, images, side, seed)
    with tempfile.TemporaryDirectory() as folder:
        path, int8 = Path(folder) / "model.onnx", Path(folder) / "int8.onnx"
        float_model(pixels, targets, splits, len(classes), path)
        held, test = pixels[splits == "calibration"][:256], pixels[splits == "test"]
        before = OnnxModel(path)
        truth, said = targets[splits == "test"], before(test).probabilities.argmax(axis=1)

        def compared(content: bytes) -> tuple[float, np.ndarray]:
            with atomic_path(int8) as temporary:
                temporary.write_bytes(content)
            after = OnnxModel(int8)
            return speedup(before, after, test[:runs], runs), after(test).probabilities.argmax(axis=1)

        content, choice, _ = smallest_loss(path, before, held, "multiclass", bound, print)
        chosen_speed, now = compared(content)
        model = graph.prepared(path)
        every = [node.name for node in graph.network(model)]
        all_speed, all_now = compared(graph.quantised(model, graph.ranges(model, held), every))

    def points(answers: np.ndarray) -> float:
        return 100 * float((said == truth).mean() - (answers == truth).mean())

    worst = max(one.lost for one in by_class(truth, said, now, classes) if one.images >= 10)
    changed = 100 * float((said != now).mean())
    return Measured(name, chosen_speed, points(now), worst, changed, len(choice.in_float), points(all_now), all_speed)


def main() -> None:
    """Measure every set and seed, and record the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trashnet", type=Path)
    parser.add_argument("--belgium", type=Path)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--images", type=int, default=1200)
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    files = {name: file for name in ("trashnet", "belgium") if (file := getattr(given, name))}
    if not files:
        parser.error("name at least one set: --trashnet FILE, --belgium FILE")
    found = []
    for seed in range(given.seeds):
        for name, file in files.items():
            found.append(measure(name, file, given.images, given.side, seed, given.quick))
            print(found[-1], flush=True)
    command = f"python -m benchmarks.int8 {' '.join(f'--{name} FILE' for name in files)} --seeds {given.seeds}"
    if given.images != parser.get_default("images"):
        command += f" --images {given.images}"
    report("int8", command, figures(found, given.seeds), given.quick)


def figures(found: list[Measured], seeds: int) -> list[Figure]:
    """The figures over all sets and seeds, with each set's mean in the spread."""

    def one(name: str, key: str, unit: str, better: str, peer: str) -> Figure:
        values = [getattr(entry, key) for entry in found]
        sets = dict.fromkeys(entry.name for entry in found)
        means = {name: np.mean([getattr(entry, key) for entry in found if entry.name == name]) for name in sets}
        spread = ", ".join(f"{name} {value:.2f}" for name, value in means.items())
        spread += f"; min {min(values):.2f}, max {max(values):.2f}"
        value = float(np.mean(values))
        return Figure(
            name=name, value=value, unit=unit, goal=None, better=better, peer=peer, seeds=seeds, spread=spread
        )

    peer = "the same model in float, in one process"
    return [
        one("int8_speedup", "speedup", "x", "higher", peer),
        one("int8_points_lost", "lost", "points", "lower", peer),
        one("int8_worst_class_points_lost", "worst", "points", "lower", peer),
        one("int8_answers_changed", "changed", "%", "lower", peer),
        one("int8_all_speedup", "all_speedup", "x", "higher", "every part in int8, nothing chosen"),
        one("int8_all_points_lost", "all_lost", "points", "lower", "every part in int8, nothing chosen"),
    ]


if __name__ == "__main__":
    main()
