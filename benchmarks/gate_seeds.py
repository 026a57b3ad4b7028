"""How far seeds alone move the gate's figures, on a small real set: for benchmarks.gate.

One recipe is trained with several seeds on datasets/fashion. Every pair of these models is compared as challenger and
champion are. Each model's answers to the test images are kept in a folder, and a second call goes on from there.
"""

import json
import tempfile
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from benchmarks.record import Figure
from benchmarks.scratch import change_params, run_stages, scratch_project, small_set
from tasks.common.artifacts import classes_and_task, training_rows
from tasks.common.files import write_json
from tasks.common.params import GateParams, load_params
from tasks.gate.paired import compare
from tasks.models.head import read_head
from tasks.models.stage1 import stage1_features
from tasks.scoring.metrics import balanced_accuracy
from tasks.scoring.targets import encode

SEEDS = 5
RECIPE = {"images": {"resolution": 32}, "train_backbone": {"epochs": {"frozen": 0, "last": 0, "all": 2}}}


@dataclass(frozen=True)
class Answers:
    """S models' answers (S, N) to N test images of K classes with labels `targets` (N,)."""

    targets: np.ndarray
    models: np.ndarray
    classes: int


def kept_answers(kept: Path, seeds: int, quick: bool) -> Answers:
    """The answers of the recipe's models, those in `kept` first."""
    file = kept / "seeds.json"
    found = json.loads(file.read_text()) if file.is_file() else {"models": []}
    if len(found["models"]) < seeds:
        with tempfile.TemporaryDirectory(prefix="evergreen-benchmark-") as folder:
            source = {"source": small_set(Path(folder) / "small.parquet", divisor=16)} if quick else {}
            project = scratch_project(Path(folder) / "project", changes=RECIPE, **source)
            run_stages(project, "inspect", "validate", "embed", "clean")
            rows, (classes, task) = training_rows(project)["test"], classes_and_task(project)
            found |= {"targets": encode(rows["label"], classes, task).tolist(), "classes": len(classes)}
            for seed in range(len(found["models"]), seeds):
                change_params(project, {"train_backbone": {"seed": seed}, "train_head": {"seed": seed}})
                run_stages(project, "train_backbone", "train_head")
                x = stage1_features(project, rows, load_params(project / "params.yaml").images)
                found["models"].append(read_head(project).logits(x).argmax(axis=1).tolist())
                write_json(file, found)
    return Answers(np.array(found["targets"]), np.array(found["models"][:seeds]), found["classes"])


def figures(answers: Answers) -> list[Figure]:
    """How far the models lie apart, and how often by less than the distance that the verdict names."""
    policy, apart, noise = GateParams(), [], []
    for new, old in combinations(answers.models, 2):
        found = compare(
            "balanced_accuracy",
            answers.targets,
            new,
            old,
            answers.classes,
            confidence=policy.confidence,
            resamples=policy.resamples,
            few=policy.min_class_support,
        )
        apart.append(100 * abs(found.value))
        noise.append(100 * found.noise)
    scores = [100 * balanced_accuracy(answers.targets, one, answers.classes) for one in answers.models]
    each = ", ".join(f"{score:.2f}" for score in scores)
    pairs = f"{len(apart)} pairs of seeds on {len(answers.targets)} test images"
    return [
        Figure(
            name="seeds_noise_points",
            value=float(np.std(scores, ddof=1)),
            unit="points, standard deviation of balanced accuracy",
            goal=None,
            better="lower",
            seeds=len(scores),
            spread=f"{each} %",
        ),
        Figure(
            name="seeds_within_named_noise",
            value=float(np.mean(np.array(apart) <= noise)),
            unit="of the pairs",
            goal=0.9,
            better="higher",
            seeds=len(scores),
            peer=f"named distance {min(noise):.2f} to {max(noise):.2f} points",
            spread=f"{pairs}: apart by {np.mean(apart):.2f} points, at most {max(apart):.2f}",
        ),
    ]
