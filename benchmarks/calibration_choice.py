"""Does the chosen calibration ever do harm, what does class-wise scaling gain, and how near is it to `probmetrics`?

    python -m benchmarks.calibration_choice DATA KEPT [--probmetrics PYTHON] [--quick]

DATA and KEPT are those of `python -m benchmarks.conformal`: the models are class-balanced heads on frozen features
(long-tailed, few images), a network's released probabilities for CIFAR-10N's images (`_given`: judged by the labels
that people gave, otherwise by the true ones) and the shares of people's votes in CIFAR-10H
(cifar10h-test.parquet). `drawn` has labels drawn from the probabilities, so nothing can be improved.

Each is divided 20 times at random into calibration images (50, 200, 1,000 and 5,000, as far as there are twice as many)
and test images. `calibrate.method: auto` chooses and fits on the calibration images.

- calibration_worse_than_none: of all models and sizes, how many have a 99 % interval of the paired difference in
  log-loss from no calibration that lies above 0
- classwise_ece_ratio: debiased calibration error by class against the temperature's, at 5,000 calibration images, mean
  over the models judged by true labels. `spread` has each model.
- choice_ece: debiased calibration error of the most probable class where the test has at least 2,000 images; the worst
  model and size of those with at least 200 calibration images
- nll_vs_svs_ratio: mean log-loss against structured vector scaling of `probmetrics` (a Python of its own), at 5,000
- answers_moved: test images whose answer is not the network's; 0 by construction, however small a class is
- seconds_50k_x_100: choice and fit on 50,000 x 100 logits

KEPT holds logits. Expected: 0, .5, .02, 1.005, 0; 10 minutes on one core.
"""

import argparse
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from benchmarks.conformal import IMAGES, read_set
from benchmarks.record import Figure, report
from benchmarks.scratch import say
from tasks.common.files import read_json, write_json
from tasks.inference.scaling import Scaling, scale
from tasks.inference.temperature import fit_temperature, probabilities
from tasks.inference.thresholds import Rule, answers
from tasks.scoring import metrics
from tasks.stages.calibrate.fitting import choose_scaling, image_losses

DIVISIONS = 20
SIZES = (50, 200, 1_000, 5_000)
MOST_TESTED = 10_000
LEAST_TESTED = 2_000
T_99 = 2.861  # two-sided 99 % of Student's t with DIVISIONS - 1 degrees of freedom
VOTED = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CIFAR = {"cifar10n_aggre": "cut-dev-aggre", "cifar10n_worst": "cut-dev-worst", "synthetic20": "cut-dev-synthetic20"}
PEER = """
import sys
import numpy as np
from probmetrics.calibrators import get_calibrator

given = np.load(sys.argv[1])
found = []
for z, y, fresh in zip(given["z"], given["y"], given["fresh"]):
    p = np.exp(z - z.max(axis=1, keepdims=True))
    q = np.exp(fresh - fresh.max(axis=1, keepdims=True))
    svs = get_calibrator("svs")
    svs.fit(p / p.sum(axis=1, keepdims=True), y)
    found.append(svs.predict_proba(q / q.sum(axis=1, keepdims=True)))
np.save(sys.argv[2], np.array(found))
"""


def models(data: Path, kept: Path) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """(name, logits (N, K), class numbers (N,)) of every model."""
    for name in IMAGES:
        yield (name, *read_set(name, data, kept))
    for name, file in CIFAR.items():
        table = pq.read_table(data / f"{file}.parquet")
        z = np.log(np.clip(np.array(table["probabilities"].to_pylist(), np.float64), 1e-7, 1))
        for ending, column in (("", "true"), ("_given", "given")):
            yield f"{name}{ending}", z, table[column].to_numpy().astype(int)
    rng = np.random.default_rng(0)
    p = probabilities(z, 1.0, "multiclass")
    yield "drawn", z, (p.cumsum(axis=1) > rng.random((len(p), 1))).argmax(axis=1)
    table = pq.read_table(data / "cifar10h-test.parquet", columns=["votes", "label"])
    votes = np.array(table["votes"].to_pylist(), np.float64)
    labels = np.array([VOTED.index(label) for label in table["label"].to_pylist()])
    yield "cifar10h_votes", np.log(votes / votes.sum(axis=1, keepdims=True) + 1e-3), labels


def classwise_error(p: np.ndarray, y: np.ndarray) -> float:
    """Mean over classes of the debiased error of a class's probability, p (N, K)."""
    return float(np.mean([metrics.debiased_ece(p[:, [k]], (y == k)[:, None]) for k in np.unique(y)]))


def divide(z: np.ndarray, y: np.ndarray, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the calibration and the test images of one division."""
    order = np.random.default_rng(seed).permutation(len(y))
    return order[:size], order[size:][:MOST_TESTED]


def measure(z: np.ndarray, y: np.ndarray, size: int, divisions: int) -> dict:
    """Figures of one model at one number of calibration images: a value for each division."""
    found: dict = {"method": [], "none": [], "temperature": [], "chosen": [], "ece": [], "moved": 0}
    found |= {"classwise": [], "classwise_of_temperature": [], "tested": len(divide(z, y, size, 0)[1])}
    for seed in range(divisions):
        fitted, test = divide(z, y, size, seed)
        choice = choose_scaling(z[fitted], y[fitted], [None] * size)
        plain = Scaling("temperature", fit_temperature(z[fitted], y[fitted]))
        p = {
            name: scale(z[test], one, "multiclass")
            for name, one in (("chosen", choice.scaling), ("temperature", plain))
        }
        rule = Rule("multiclass", np.full(z.shape[1], 0.5), choice.scaling.undo(z.shape[1]))
        found["method"].append(choice.candidate.method)
        for name, one in (("none", Scaling()), ("temperature", plain), ("chosen", choice.scaling)):
            found[name].append(float(image_losses(z[test], y[test], one).mean()))
        said = np.take_along_axis(z[test], answers(p["chosen"], rule)[:, None], axis=1)[:, 0]
        found["moved"] += int((said < z[test].max(axis=1) - 1e-9).sum())  # people's votes are often equal
        found["ece"].append(metrics.debiased_ece(p["chosen"], y[test]))
        found["classwise"].append(classwise_error(p["chosen"], y[test]))
        found["classwise_of_temperature"].append(classwise_error(p["temperature"], y[test]))
    return found


def peer(python: str, z: np.ndarray, y: np.ndarray, size: int, divisions: int, folder: Path) -> list[float]:
    """Log-loss of structured vector scaling on the same divisions."""
    rows = [divide(z, y, size, seed) for seed in range(divisions)]
    inputs = {"z": [z[a] for a, _ in rows], "y": [y[a] for a, _ in rows], "fresh": [z[b] for _, b in rows]}
    np.savez(folder / "peer.npz", **inputs)
    subprocess.run([python, "-c", PEER, folder / "peer.npz", folder / "peer.npy"], check=True)
    said = np.load(folder / "peer.npy")
    return [metrics.log_loss(p, y[b]) for p, (_, b) in zip(said, rows, strict=True)]


def seconds() -> float:
    """Time of choice and fit on 50,000 x 100 logits."""
    rng = np.random.default_rng(0)
    z = rng.normal(0, 3, (50_000, 100)).astype(np.float32)
    p = probabilities(z, 2.0, "multiclass")
    y = (p.cumsum(axis=1) > rng.random((len(p), 1))).argmax(axis=1)
    start = time.perf_counter()
    choose_scaling(z, y, [None] * len(y))
    return time.perf_counter() - start


def figures_of(found: dict[str, dict], timed: float | None) -> list[Figure]:
    """found: "model size" -> figures of `measure`, with `svs` where the peer ran."""
    worse, gaps = [], []
    for name, one in found.items():
        gap = np.array(one["chosen"]) - one["none"]
        gaps.append(f"{name} {gap.mean():+.4f}")
        if gap.mean() > T_99 * gap.std(ddof=1) / np.sqrt(len(gap)):
            worse.append(name)
    large = {name.split()[0]: one for name, one in found.items() if name.endswith(" 5000")}
    ratios = {
        name: float(np.mean(one["classwise"]) / np.mean(one["classwise_of_temperature"])) for name, one in large.items()
    }
    true = [value for name, value in ratios.items() if not name.endswith(("_given", "drawn", "votes"))]
    tested = {
        name: float(np.mean(one["ece"]))
        for name, one in found.items()
        if one["tested"] >= LEAST_TESTED and int(name.split()[1]) >= 200
    }
    made = [
        Figure(name="calibration_worse_than_none", value=len(worse), unit=f"of {len(found)} models and sizes", goal=0,
               better="lower", seeds=DIVISIONS, spread="; ".join(worse or gaps)),
        Figure(name="answers_moved", value=sum(one["moved"] for one in found.values()), unit="answers", goal=0,
               better="lower", seeds=DIVISIONS),
    ]  # fmt: skip
    if tested:
        worst = max(tested, key=tested.get)
        made.append(Figure(name="choice_ece", value=tested[worst], unit="", goal=0.02, better="lower", seeds=DIVISIONS,
                           spread=f"worst {worst}; " + _listed(tested)))  # fmt: skip
    if true:
        made.append(Figure(name="classwise_ece_ratio", value=float(np.mean(true)), unit="", goal=0.5, better="lower",
                           peer="a temperature 1", seeds=DIVISIONS, spread=_listed(ratios)))  # fmt: skip
    of_svs = {name: np.mean(one["chosen"]) / np.mean(one["svs"]) for name, one in large.items() if "svs" in one}
    if of_svs:
        made.append(Figure(name="nll_vs_svs_ratio", value=float(np.mean(list(of_svs.values()))), unit="", goal=1.005,
                           better="lower", peer="probmetrics 1", seeds=DIVISIONS, spread=_listed(of_svs)))  # fmt: skip
    if timed is not None:
        made.append(Figure(name="seconds_50k_x_100", value=timed, unit="s", goal=60, better="lower"))
    return made


def _listed(values: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in values.items())


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder with the Parquet files")
    parser.add_argument("kept", type=Path, help="folder for logits and finished figures")
    parser.add_argument("--probmetrics", help="a Python that has probmetrics")
    parser.add_argument(
        "--quick", action="store_true", help="what KEPT has of one model, two divisions; records nothing"
    )
    options = parser.parse_args(arguments)
    options.kept.mkdir(parents=True, exist_ok=True)
    found = {}
    sizes, divisions = ((50,), 2) if options.quick else (SIZES, DIVISIONS)
    for name, z, y in models(options.data, options.kept):
        for size in sizes:
            if 2 * size > len(y):
                continue
            file = options.kept / f"choice-{name}-{size}{'-quick' * options.quick}.json"
            if not file.is_file():
                one = measure(z, y, size, divisions)
                if options.probmetrics and size == SIZES[-1]:
                    one["svs"] = peer(options.probmetrics, z, y, size, divisions, options.kept)
                write_json(file, one)
            found[f"{name} {size}"] = one = read_json(file)
            losses = {key: float(np.mean(one[key])) for key in ("none", "temperature", "chosen", "svs") if key in one}
            say(f"{name} {size}: {_listed(losses)}; {sorted(set(one['method']))}")
        if options.quick:
            break
    timed = None if options.quick else seconds()
    report("calibration_choice", "python -m benchmarks.calibration_choice DATA KEPT --probmetrics PYTHON",
           figures_of(found, timed), options.quick)  # fmt: skip


if __name__ == "__main__":
    main()
