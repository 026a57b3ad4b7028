"""What does each loss and sampler do for rare classes, beside plain cross entropy?

    python -m benchmarks.long_tail KEPT [--cifar-train FILE --cifar-test FILE] [--infrared FILE] [--trashnet FILE]
                                   [--seeds 3] [--device cpu] [--workers 1] [--weights FILE] [--only ARM ...]
                                   [--scratch-epochs 0] [--measure-only | --figures-only] [--quick]

Stage 1 of the training as params.yaml has it (lite0, five epochs, 64 pixels), in memory, with one setting changed: for
each set, seed and arm the recall of every class on test. Sets are the default set (50:1), CIFAR-10 made 100:1 (1,000
to 10 images, test balanced), InfraredSolar (57:1, a quarter of it trains) and TrashNet (4:1). Many-shot classes have
more than 100 training images, few-shot ones fewer than 50. `post_hoc` is cross entropy with the log share of each class
taken off its logits after training (Menon et al. 2021). `balanced_softmax` is `logit_adjusted`, and not trained again.

--scratch-epochs N also trains a ResNet-18 for small images from random weights on CIFAR-10 100:1 (5,000 to 50), 32
pixels: the setting of published CIFAR-LT figures (a ResNet-32 for 200 epochs: cross entropy 69.9 %, LDAM-DRW 75.4 %,
balanced softmax 76.4 % [BagofTricks-LT]; MiSLAS 82.5 %, GLMC 89.6 %).

Each training is one file in KEPT: a run that is stopped goes on where it was. --weights reads the pretrained network
from a safetensors file with timm's names instead of the installed package. --measure-only trains and records nothing;
--figures-only trains nothing and makes the figures of all that KEPT has, for example from another machine. Expected: on
CIFAR-10 100:1 most arms are above cross entropy in balanced accuracy and below it in many-shot recall.
"""

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

import numpy as np

from benchmarks.long_tail_sets import Part, cifar, natural
from tasks.common.code import code_version
from tasks.common.files import content_key, read_json, write_json
from tasks.common.params import TrainBackboneParams
from tasks.common.sections.training import UnfreezePhases
from tasks.scoring.metrics import per_class

T = TypeVar("T")  # a job
BACKBONE = "tf_efficientnet_lite0"
FASHION = Path(__file__).resolve().parent.parent / "datasets" / "fashion" / "base.parquet"
ARMS = {
    "cross_entropy": {},
    "class_weighted": {"loss": "class_weighted"},
    "focal": {"loss": "focal"},
    "class_balanced_loss": {"loss": "class_balanced"},
    "ldam_drw": {"loss": "ldam_drw"},
    "logit_adjusted": {"loss": "logit_adjusted"},
    "label_smoothing": {"label_smoothing": 0.1},
    "stratified": {"sampler": "stratified"},
    "class_balanced_sampler": {"sampler": "class_balanced"},
    "square_root": {"sampler": "square_root"},
    "progressive": {"sampler": "progressive"},
    "undersample": {"sampler": "undersample"},
    "repeat_factor": {"sampler": "repeat_factor"},
    "oversample": {"sampler": "oversample"},
    "oversample_augmented": {"sampler": "oversample", "rare_augment": ["rotate", "colour", "erase"]},
    "rare_augment": {"rare_augment": ["rotate", "colour", "erase"]},
}
SCRATCH_ARMS = ("cross_entropy", "ldam_drw", "logit_adjusted", "class_balanced_sampler", "progressive")
SIDE, SCRATCH_SIDE = 64, 32
SCRATCH = {"batch_size": 128, "learning_rate": 2e-3, "weight_decay": 0.05, "pretrained": "none"}


@dataclass(frozen=True)
class Job:
    """One training; `scratch` is the number of epochs of the small ResNet, 0 for the pretrained network."""

    images: str
    arm: str
    seed: int
    scratch: int = 0
    quick: bool = False

    @property
    def params(self) -> TrainBackboneParams:
        changes = {"sampler": "natural"} | ARMS[self.arm] | {"seed": self.seed, "threads": 1}
        if self.scratch:
            changes |= SCRATCH | {"epochs": UnfreezePhases(all=self.scratch), "backbone": "resnet18"}
        if self.quick:
            changes |= {"epochs": UnfreezePhases(all=1)}
        return TrainBackboneParams(**changes)

    @property
    def name(self) -> str:
        return f"{self.images}-{self.arm}-{self.seed}"


@dataclass(frozen=True)
class How:
    """Where results are kept, which files the sets are, on which device, with which weights."""

    kept: Path
    files: dict[str, Path]
    device: str
    weights: Path | None


def sets(files: dict[str, Path]) -> dict[str, Callable[[int, int], dict[str, Part]]]:
    """Name -> function of (seed, side) that gives the parts train, calibration and test."""
    found = {"fashion": natural(files.get("fashion", FASHION), 0.7)}
    if "cifar_train" in files:
        found["cifar_1000"] = cifar(files["cifar_train"], files["cifar_test"], 1000)
        found["cifar_5000"] = cifar(files["cifar_train"], files["cifar_test"], 5000)
    if "infrared" in files:
        found["infrared"] = natural(files["infrared"], 0.25)
    if "trashnet" in files:
        found["trashnet"] = natural(files["trashnet"], 0.6)
    return found


def jobs(names: list[str], seeds: int, arms: list[str], scratch: int, quick: bool) -> Iterator[Job]:
    """All trainings, seed by seed: a run that is stopped has compared all arms."""
    for seed in range(seeds):
        if scratch and "cifar_5000" in names and seed == 0:
            yield from (Job("cifar_5000", arm, seed, scratch, quick) for arm in SCRATCH_ARMS if arm in arms)
        for name in names:
            if name != "cifar_5000":
                yield from (Job(name, arm, seed, 0, quick) for arm in arms)


def network(classes: int, job: Job, weights: Path | None):
    """The network before training, on the CPU."""
    import torch

    from tasks.backbones import timm_models

    torch.manual_seed(job.seed)
    if job.scratch:  # the stem that ResNets for small images have
        model = timm_models.create_model("resnet18", "none", classes, SIDE)
        model.conv1 = torch.nn.Conv2d(3, 64, 3, padding=1, bias=False)
        model.maxpool = torch.nn.Identity()
        return model.to(memory_format=torch.channels_last)
    if weights is None:
        return timm_models.create_model(BACKBONE, "auto", classes, SIDE)
    from safetensors.torch import load_file

    model = timm_models.create_model(BACKBONE, "none", classes, SIDE)
    state = {name: value for name, value in load_file(weights).items() if not name.startswith("classifier.")}
    missing = model.load_state_dict(state, strict=False).missing_keys
    if missing != ["classifier.weight", "classifier.bias"]:
        raise ValueError(f"{weights} lacks {missing[:3]}: expected all of {BACKBONE} but its classifier")
    return model


@cache
def _data(how_files: tuple, name: str, seed: int, side: int) -> dict[str, Part]:
    return sets(dict(how_files))[name](seed, side)


def features(model, pixels: np.ndarray, device, mean, std) -> np.ndarray:
    """(N, D) float32 of the network before training."""
    import torch

    from tasks.backbones import timm_models

    model.to(device)
    with torch.inference_mode():
        found = [
            timm_models.features(model, timm_models.to_input(pixels[start : start + 256], mean, std, device)).cpu()
            for start in range(0, len(pixels), 256)
        ]
    model.cpu()
    return torch.cat(found).float().numpy()


def train(job: Job, how: How) -> dict:
    """Recall of each class on test, with and without the log shares taken off, and the seconds of the training."""
    import torch

    from tasks.backbones import timm_models
    from tasks.stages.train_backbone import feeding, judging, trainer
    from tasks.stages.train_backbone.losses import log_share
    from tasks.stages.train_backbone.processes import Ranks

    torch.set_num_threads(1)
    device = torch.device(how.device)
    side = SCRATCH_SIDE if job.scratch else SIDE
    parts = _data(tuple(sorted(how.files.items())), job.images, job.seed, side)
    classes = int(parts["train"].targets.max()) + 1
    counts = np.bincount(parts["train"].targets, minlength=classes)
    model = network(classes, job, how.weights)
    mean, std = timm_models.normalisation("resnet18" if job.scratch else BACKBONE)
    setting = feeding.Setting(job.params, classes, mean, std, Ranks(0, 1, device))
    began = time.perf_counter()

    def examples(part: Part) -> feeding.Examples:
        known = None if job.scratch else features(model, part.pixels, device, mean, std)
        return feeding.Examples(part.pixels, known, part.targets)

    held = examples(parts["calibration"])
    best, history = trainer.fit(model, examples(parts["train"]), held, setting)
    seconds = time.perf_counter() - began
    model.load_state_dict(best)
    test = parts["test"]
    logits = judging.predict(model, feeding.Examples(test.pixels, None, test.targets).pixels, setting).numpy()
    adjusted = logits - log_share(counts)

    def recall(scores: np.ndarray) -> list[float]:
        return per_class(test.targets, scores.argmax(axis=1), classes)["recall"].tolist()

    return {
        "set": job.images,
        "arm": job.arm,
        "seed": job.seed,
        "counts": counts.tolist(),
        "recall": recall(logits),
        "post_hoc": recall(adjusted),
        "accuracy": float((logits.argmax(axis=1) == test.targets).mean()),
        "epochs": len(history),
        "seconds": seconds,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else how.device,
    }


def measure(job: Job, how: How) -> dict:
    """`train`, or what is kept of it if code and settings are the same."""
    code = [code_version("tasks.stages.train_backbone.trainer"), job.params.model_dump(), job.quick, SIDE]
    key = content_key(*code)[:16]
    file = how.kept / f"{job.name}.json"
    if file.is_file() and (kept := read_json(file))["key"] == key:
        return kept
    found = train(job, how) | {"key": key}
    write_json(file, found)
    print(f"{job.name}: balanced accuracy {100 * np.nanmean(found['recall']):.2f} % in {found['seconds']:.0f} s")
    return found


def measure_all(measure_one: Callable[[T, How], dict], todo: Sequence[T], how: How, workers: int) -> list[dict]:
    """Results in order; several `workers` share the device: these networks are too small to fill it."""
    if workers == 1:
        return [measure_one(job, how) for job in todo]
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        return list(pool.map(measure_one, todo, [how] * len(todo)))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kept", type=Path, help="folder for one result per set, arm and seed")
    for name in ("cifar-train", "cifar-test", "infrared", "trashnet", "weights"):
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--workers", type=int, default=1, help="trainings at the same time")
    parser.add_argument("--only", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--sets", nargs="+", help="measure these sets alone")
    parser.add_argument("--scratch-epochs", type=int, default=0)
    parser.add_argument("--measure-only", action="store_true", help="record nothing")
    parser.add_argument(
        "--figures-only", action="store_true", help="train nothing, whatever code measured what is kept"
    )
    parser.add_argument("--quick", action="store_true", help="a part of the default set, two arms; records nothing")
    options = parser.parse_args(arguments)
    options.kept.mkdir(parents=True, exist_ok=True)
    given = {name: getattr(options, name) for name in ("cifar_train", "cifar_test", "infrared", "trashnet")}
    files = {name: file for name, file in given.items() if file}
    if options.quick:
        from benchmarks.scratch import small_set

        files = {"fashion": small_set(options.kept / "small.parquet", divisor=64, least=4)}
        options.seeds, options.only = 1, ["cross_entropy", "ldam_drw"]
    names = [name for name in sets(files) if options.sets is None or name in options.sets]
    how = How(options.kept, files, options.device, options.weights)
    todo = list(jobs(names, options.seeds, options.only, options.scratch_epochs, options.quick))
    if options.figures_only:
        results = [read_json(file) for one in todo if (file := how.kept / f"{one.name}.json").is_file()]
    else:
        results = measure_all(measure, todo, how, options.workers)
    if not options.measure_only:
        from benchmarks.long_tail_figures import figures_of
        from benchmarks.record import report

        named = "".join(f" --{name.replace('_', '-')} {name}.parquet" for name in given if name in files)
        scratch = f" --scratch-epochs {options.scratch_epochs}" if options.scratch_epochs else ""
        command = f"python -m benchmarks.long_tail kept{named}{scratch}"
        report("long_tail", command, figures_of(results), options.quick or options.sets is not None)


if __name__ == "__main__":
    main()
