"""Is the two-stage training better than plain fine-tuning that may take as long?

    python -m benchmarks.two_stage [--quick]

Runs on datasets/fashion (training split long-tailed 50:1, labels cleaned; test split balanced, labels clean), for each
seed, in one process, in turn:

- two-stage: stages train_backbone and train_head with params.yaml as it is
- plain: train_backbone alone on the same rows, with its classifier as trained. It gets as many more whole epochs of its
  last phase (everything trains, cosine) as stage 2 and its pass over the features cost, rounded up

Time is this process's CPU time: on a shared machine, wall time depends mostly on other processes. The figure is the
difference of balanced accuracies on the test split in points. Expected: above 0; about 5 minutes on 2 cores.
"""

import argparse
import math
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.calibration import QUICK
from benchmarks.record import Figure, report
from benchmarks.scratch import change_params, run_stages, say, scratch_project, small_set, timed
from tasks.common.artifacts import classes_and_task, trained_weights, training_rows
from tasks.common.files import read_json
from tasks.common.params import load_params
from tasks.models.head import Head, read_head
from tasks.models.stage1 import stage1_features
from tasks.scoring.metrics import per_class
from tasks.scoring.targets import class_counts, encode
from tasks.stages.runner import run_stage
from tasks.stages.train_head import stage1_head

SEEDS = 3
MANY, FEW = 100, 50  # training images: a many-shot class has more than MANY, a few-shot class fewer than FEW


@dataclass(frozen=True)
class Arm:
    """One trained model: per-class recall (K,) on the test split, and the CPU seconds of its training."""

    recall: np.ndarray
    seconds: float
    method: str

    @property
    def score(self) -> float:
        """Balanced accuracy, percent."""
        return round(100 * float(self.recall.mean()), 4)


def prepare(folder: Path, quick: bool) -> Path:
    """A project up to stage `clean` with a warm pixel cache: both arms train from the same files."""
    small = QUICK if quick else {}
    source = {"source": small_set(folder / "small.parquet", divisor=16)} if quick else {}
    project = scratch_project(folder / "project", changes=small, **source)
    run_stages(project, "inspect", "validate", "embed", "clean")
    return project


def epoch_seconds(project: Path) -> float:
    """CPU seconds of one epoch of the last phase: a training of two such epochs minus one of a single epoch."""
    before = load_params(project / "params.yaml").train_backbone
    seconds = []
    for count in (1, 2):
        change_params(project, {"train_backbone": {"epochs": {"frozen": 0, "last": 0, "all": count}}})
        with timed(f"the price of an epoch, {count} of 2") as clock:
            run_stage("train_backbone", project)
        seconds.append(clock.cpu)
    change_params(project, {"train_backbone": before.model_dump()})
    return max(seconds[1] - seconds[0], 0.1)


def two_stage(project: Path, seed: int) -> tuple[Arm, Arm, float]:
    """(two-stage, its own first stage, CPU seconds of its second stage with the pass over the features)."""
    change_params(project, {"train_backbone": {"seed": seed}})
    with timed(f"seed {seed}: stage 1") as first:
        run_stage("train_backbone", project)
    with timed(f"seed {seed}: stage 2") as second:
        run_stage("train_head", project)
    method = read_json(project / "artifacts/train_head/head.json")["method"]
    whole = Arm(recall(project, read_head(project)), first.cpu + second.cpu, method)
    return whole, Arm(own_recall(project), first.cpu, "stage1"), second.cpu


def plain(project: Path, seed: int, extra: int) -> Arm:
    """Stage 1 alone with `extra` more epochs."""
    before = load_params(project / "params.yaml").train_backbone
    change_params(project, {"train_backbone": {"seed": seed, "epochs": {"all": before.epochs.all + extra}}})
    with timed(f"seed {seed}: plain fine-tuning, {extra} more epochs") as clock:
        run_stage("train_backbone", project)
    change_params(project, {"train_backbone": before.model_dump()})
    return Arm(own_recall(project), clock.cpu, "stage1")


def own_recall(project: Path) -> np.ndarray:
    """Recall of train_backbone's own classifier."""
    return recall(project, stage1_head(project), trained_weights(project))


def recall(project: Path, head: Head, weights: Path | None = None) -> np.ndarray:
    """(K,) recall of `head` on the test split's features, by the model's network or the one with `weights`."""
    rows, (classes, task) = training_rows(project)["test"], classes_and_task(project)
    x = stage1_features(project, rows, load_params(project / "params.yaml").images, weights=weights)
    predicted = head.logits(x).argmax(axis=1)
    return per_class(encode(rows["label"], classes, task), predicted, len(classes))["recall"]


def groups(project: Path) -> dict[str, np.ndarray]:
    """Name -> (K,) bool: classes by their number of training images."""
    classes, task = classes_and_task(project)
    counts = class_counts(encode(training_rows(project)["train"]["label"], classes, task), len(classes))
    return {"many": counts > MANY, "medium": (counts >= FEW) & (counts <= MANY), "few": counts < FEW}


def figures_of(two: list[Arm], own: list[Arm], one: list[Arm], parts: dict[str, np.ndarray]) -> list[Figure]:
    """Figures of two-stage training, its own first stage and plain fine-tuning, with one Arm per seed each."""
    common = {"unit": "points", "goal": None, "better": "higher", "seeds": len(two)}
    seconds = [sum(arm.seconds for arm in arms) / len(arms) for arms in (two, one)]
    figures = [
        Figure(
            name="two_stage_gain_points",
            value=_mean(gain := [a.score - b.score for a, b in zip(two, one, strict=True)]),
            peer=f"plain fine-tuning, balanced accuracy {_mean([arm.score for arm in one]):.2f} % in "
            f"{seconds[1]:.0f} CPU s; two-stage {_mean([arm.score for arm in two]):.2f} % in {seconds[0]:.0f} CPU s",
            spread=f"{_each(gain)}; methods {', '.join(arm.method for arm in two)}",
            **common,
        ),
        Figure(
            name="two_stage_gain_over_own_stage1_points",
            value=_mean(gain := [a.score - b.score for a, b in zip(two, own, strict=True)]),
            peer="the same network before stage 2",
            spread=_each(gain),
            **common,
        ),
    ]
    for name, members in parts.items():
        if members.any():
            a, b = ([round(100 * float(arm.recall[members].mean()), 4) for arm in arms] for arms in (two, one))
            gain = [x - y for x, y in zip(a, b, strict=True)]
            peer = f"plain fine-tuning, recall {_mean(b):.2f} %; two-stage {_mean(a):.2f} %; {members.sum()} classes"
            name = f"two_stage_gain_{name}_shot_points"
            figures.append(Figure(name=name, value=_mean(gain), peer=peer, spread=_each(gain), **common))
    return figures


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _each(values: list[float]) -> str:
    return "each seed " + ", ".join(f"{value:+.2f}" for value in values)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a sixteenth of the images, one seed; records nothing")
    options = parser.parse_args(arguments)
    two, own, one = [], [], []
    with tempfile.TemporaryDirectory(prefix="evergreen-benchmark-") as folder:
        project = prepare(Path(folder), options.quick)
        epoch = math.inf if options.quick else epoch_seconds(project)
        for seed in range(1 if options.quick else SEEDS):
            whole, first, second = two_stage(project, seed)
            two.append(whole)
            own.append(first)
            one.append(plain(project, seed, max(1, math.ceil(second / epoch))))
            say(f"  two-stage {whole.score:.2f} %, before stage 2 {first.score:.2f} %, plain {one[-1].score:.2f} %")
        figures = figures_of(two, own, one, groups(project))
    report("two_stage", "python -m benchmarks.two_stage", figures, options.quick)


if __name__ == "__main__":
    main()
