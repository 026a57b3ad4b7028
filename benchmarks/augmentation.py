"""What do augmentation and mixing do for accuracy, and MixUp and CutMix for calibration?

    python -m benchmarks.augmentation KEPT [--cifar-train FILE --cifar-test FILE] [--infrared FILE] [--trashnet FILE]
                                      [--signs FILE] [--seeds 3] [--device cpu] [--workers 1] [--weights FILE]
                                      [--only ARM ...] [--sets SET ...] [--measure-only] [--quick]

Stage 1 of the training as params.yaml has it (lite0, five epochs, 64 pixels), in memory, with one setting changed, on
the sets of benchmarks.long_tail and on Belgian traffic signs. Of signs and TrashNet 30 % train, because augmentation is
for small sets. For each set, seed and arm: balanced accuracy, expected calibration error and log loss on test, of the
network as it is, and with a temperature fitted on calibration images.
`default` is `augment: [crop, flip]`; every other arm but `none` and `resized_crop` adds one name to it.

The claim that mixing calibrates is of Thulasidasan et al. 2019. claim_mixup_ece_points and claim_cutmix_ece_points are
the differences to `default` of the same set and seed in points, below 0 if it holds; the same _after_scaling, because
stage `calibrate` scales every model. Each training is one file in KEPT: a run that is stopped goes on where it was.
Expected: after scaling, mixing gains nothing in five epochs.
"""

import argparse
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from benchmarks import long_tail
from benchmarks.long_tail_sets import Part, natural
from tasks.common.code import code_version
from tasks.common.files import content_key, read_json, write_json
from tasks.common.params import TrainBackboneParams
from tasks.common.sections.training import UnfreezePhases

SIDE = 64
SMALL, SHARE = ("signs", "trashnet"), 0.3  # sets of which so much trains
ADDED = ("colour", "rotate", "vertical_flip", "affine", "perspective", "hue", "grey", "erase")
POLICIES = ("rand_augment", "trivial_augment", "auto_augment")
ARMS = {
    "default": {},
    "mixup": {"mix": ["mixup"]},
    "cutmix": {"mix": ["cutmix"]},
    "mixup_cutmix": {"mix": ["mixup", "cutmix"]},
    "resolution_schedule": {"resolution_schedule": [0.5, 0.75, 1.0]},
    "resized_crop": {"augment": ["resized_crop", "flip"]},
    "none": {"augment": []},
    "no_flip": {"augment": ["crop"]},
} | {name: {"augment": ["crop", "flip", name]} for name in (*ADDED, *POLICIES)}


@dataclass(frozen=True)
class Job:
    """One training."""

    images: str
    arm: str
    seed: int
    quick: bool = False

    @property
    def params(self) -> TrainBackboneParams:
        short = {"epochs": UnfreezePhases(all=1)} if self.quick else {}
        return TrainBackboneParams(**ARMS[self.arm] | {"seed": self.seed, "threads": 1} | short)


@cache
def parts_of(files: tuple, name: str, seed: int, side: int) -> dict[str, Part]:
    """train, calibration and test of a set, at `side` pixels."""
    known = dict(files)
    if name in SMALL:
        return natural(known[name], SHARE)(seed, side)
    return long_tail.sets({key: file for key, file in known.items() if key not in SMALL})[name](seed, side)


def train(job: Job, how: long_tail.How) -> dict:
    """Balanced accuracy, calibration error and log loss on test, before and after temperature scaling; seconds."""
    import torch

    from tasks.backbones import timm_models
    from tasks.stages.train_backbone import feeding, judging, trainer
    from tasks.stages.train_backbone.augment.limits import decoded_side
    from tasks.stages.train_backbone.processes import Ranks

    torch.set_num_threads(1)
    device, files = torch.device(how.device), tuple(sorted(how.files.items()))
    parts = parts_of(files, job.images, job.seed, SIDE)
    larger = parts_of(files, job.images, job.seed, decoded_side(SIDE, job.params))["train"]
    classes = int(parts["train"].targets.max()) + 1
    model = long_tail.network(classes, long_tail.Job(job.images, "cross_entropy", job.seed), how.weights)
    mean, std = timm_models.normalisation(long_tail.BACKBONE)
    setting = feeding.Setting(job.params, classes, mean, std, Ranks(0, 1, device), side=SIDE)
    features = {
        split: long_tail.features(model, parts[split].pixels, device, mean, std) for split in ("train", "calibration")
    }
    held = parts["calibration"]
    began = time.perf_counter()
    best, history = trainer.fit(
        model,
        feeding.Examples(larger.pixels, features["train"], larger.targets),
        feeding.Examples(held.pixels, features["calibration"], held.targets),
        setting,
    )
    seconds = time.perf_counter() - began
    model.load_state_dict(best)
    logits = {split: judging.predict(model, parts[split].pixels, setting).numpy() for split in ("calibration", "test")}
    about = {"set": job.images, "arm": job.arm, "seed": job.seed, "epochs": len(history), "seconds": seconds}
    return about | scores(logits, {split: parts[split].targets for split in logits})


def scores(logits: dict[str, np.ndarray], targets: dict[str, np.ndarray]) -> dict[str, float]:
    """Percent on test, of `logits` (N, K) per split: balanced accuracy, ECE; nats: log loss. `_scaled`: with a
    temperature fitted on calibration."""
    from tasks.inference.temperature import fit_temperature, probabilities
    from tasks.scoring.metrics import balanced_accuracy, ece, log_loss

    temperature = fit_temperature(logits["calibration"], targets["calibration"])
    test, found = targets["test"], {"temperature": temperature}
    for ending, value in (("", 1.0), ("_scaled", temperature)):
        chances = probabilities(logits["test"], value, "multiclass")
        found |= {f"ece{ending}": 100 * ece(chances, test), f"log_loss{ending}": log_loss(chances, test)}
    right = balanced_accuracy(test, logits["test"].argmax(axis=1), logits["test"].shape[1])
    return {name: float(value) for name, value in (found | {"balanced_accuracy": 100 * right}).items()}


def measure(job: Job, how: long_tail.How) -> dict:
    """`train`, or what is kept of it if code and settings are the same."""
    code = code_version("tasks.stages.train_backbone.trainer")
    key = content_key(code, job.params.model_dump(), job.quick, SIDE)[:16]
    file = how.kept / f"{job.images}-{job.arm}-{job.seed}.json"
    if file.is_file() and (kept := read_json(file))["key"] == key:
        return kept
    found = train(job, how) | {"key": key}
    write_json(file, found)
    print(f"{file.stem}: {found['balanced_accuracy']:.1f} %, ECE {found['ece']:.1f}, {found['seconds']:.0f} s")
    return found


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kept", type=Path, help="folder for one result per set, arm and seed")
    for name in ("cifar-train", "cifar-test", "infrared", "trashnet", "signs", "weights"):
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--workers", type=int, default=1, help="trainings at the same time")
    parser.add_argument("--only", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--sets", nargs="+", help="measure these sets alone")
    parser.add_argument("--measure-only", action="store_true", help="record nothing")
    parser.add_argument("--quick", action="store_true", help="a part of the default set, two arms; records nothing")
    options = parser.parse_args(arguments)
    options.kept.mkdir(parents=True, exist_ok=True)
    given = {name: getattr(options, name) for name in ("cifar_train", "cifar_test", "infrared", "trashnet", "signs")}
    files = {name: file for name, file in given.items() if file}
    if options.quick:
        from benchmarks.scratch import small_set

        files = {"fashion": small_set(options.kept / "small.parquet", divisor=64, least=4)}
        options.seeds, options.only = 1, ["default", "mixup"]
    names = [*(name for name in long_tail.sets(files) if name not in SMALL), *(name for name in SMALL if name in files)]
    names = [name for name in names if name in (options.sets or names) and name != "cifar_5000"]
    how = long_tail.How(options.kept, files, options.device, options.weights)
    todo = [
        Job(name, arm, seed, options.quick)
        for seed in range(options.seeds)
        for name in names
        for arm in ARMS
        if arm in options.only
    ]
    results = long_tail.measure_all(measure, todo, how, options.workers)
    if not options.measure_only:
        from benchmarks.augmentation_figures import figures_of
        from benchmarks.record import report

        named = "".join(f" --{name.replace('_', '-')} {name}.parquet" for name in given if name in files)
        chosen = f" --sets {' '.join(options.sets)}" if options.sets else ""
        chosen += f" --only {' '.join(options.only)}" if len(options.only) < len(ARMS) else ""
        command = f"python -m benchmarks.augmentation kept{named} --seeds {options.seeds}{chosen}"
        report("augmentation", command, figures_of(results), options.quick)


if __name__ == "__main__":
    main()
