"""Does a student learn more from a teacher than from labels alone?

    python -m benchmarks.distillation KEPT [--infrared FILE] [--trashnet FILE] [--seeds 2] [--quick]

Stage 1 as params.yaml has it, in memory, on the sets of benchmarks.long_tail. The teacher is the default recipe (lite0,
pretrained); the student is the smallest EfficientNet of timm, from random weights, for as many epochs in each arm.
claim_distillation_points is the balanced accuracy on test with the teacher minus that without, in points; the claim of
the field is that a student loses 1 to 2 % of its teacher's accuracy (claim_distillation_loss_points). Each training is
one file in KEPT: a run that is stopped goes on where it was. Expected: answers help, features and attention add little.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks import long_tail
from benchmarks.record import Figure, report
from tasks.common.code import code_version
from tasks.common.files import content_key, read_json, write_json
from tasks.common.params import TrainBackboneParams
from tasks.common.sections.training import DistillParams, UnfreezePhases

SIDE, LITE0, STUDENT = 64, "tf_efficientnet_lite0", "test_efficientnet"
ARMS = {
    "alone": {},
    "answers": {"weight": 0.5},
    "answers_features": {"weight": 0.5, "features": 1.0},
    "answers_attention": {"weight": 0.5, "attention": 1.0},
}


def params_of(seed: int, epochs: int, **changes) -> TrainBackboneParams:
    """The recipe of params.yaml with another number of epochs."""
    return TrainBackboneParams(seed=seed, threads=1, epochs=UnfreezePhases(all=epochs), **changes)


def fit_and_score(model, parts, setting, pretrained: bool) -> tuple[float, float]:
    """(balanced accuracy on test in percent, seconds of training); `model` keeps its best epoch."""
    from tasks.scoring.metrics import balanced_accuracy
    from tasks.stages.train_backbone import feeding, judging, trainer

    def examples(part) -> feeding.Examples:
        found = None
        if pretrained:
            found = long_tail.features(model, part.pixels, setting.ranks.device, setting.mean, setting.std)
        return feeding.Examples(part.pixels, found, part.targets)

    train, held = examples(parts["train"]), examples(parts["calibration"])
    began = time.perf_counter()
    best, _ = trainer.fit(model, train, held, setting)
    seconds = time.perf_counter() - began
    model.load_state_dict(best)
    said = judging.predict(model, parts["test"].pixels, setting).numpy().argmax(axis=1)
    return 100 * float(balanced_accuracy(parts["test"].targets, said, setting.classes)), seconds


def measure(parts: dict, seed: int, epochs: int, students: int, teacher_name: str) -> dict:
    """Scores and seconds of the teacher and of the student in each arm of ARMS."""
    import torch

    from tasks.backbones import timm_models
    from tasks.stages.train_backbone import feeding
    from tasks.stages.train_backbone.processes import Ranks
    from tasks.stages.train_backbone.teachers import Teachers, TorchTeacher

    torch.set_num_threads(1)
    device, classes = timm_models.device(), int(parts["train"].targets.max()) + 1
    mean, std = timm_models.normalisation(teacher_name)
    torch.manual_seed(seed)
    packaged = teacher_name == timm_models.OFFLINE_BACKBONE
    teacher = timm_models.create_model(teacher_name, "auto" if packaged else "none", classes, SIDE)
    how = feeding.Setting(params_of(seed, epochs), classes, mean, std, Ranks(0, 1, device), side=SIDE)
    found: dict[str, float] = {}
    found["teacher"], found["teacher_seconds"] = fit_and_score(teacher, parts, how, pretrained=packaged)
    last = timm_models.classifier(teacher)
    weight, bias = last.weight.detach().clone(), last.bias.detach().clone()
    names = [str(number) for number in range(classes)]
    about = {"resolution": SIDE, "mean": mean, "std": std}
    teaching = TorchTeacher(teacher, weight, bias, names, about, device)
    for arm, values in ARMS.items():
        torch.manual_seed(seed)
        student = timm_models.create_model(STUDENT, "none", classes, SIDE)
        distill = DistillParams(teachers=[teacher_name] if values else [], **values)
        params = params_of(seed, students, backbone=STUDENT, pretrained="none", distill=distill)
        setting = replace(how, params=params, teachers=Teachers([teaching], names, distill, False) if values else None)
        found[arm], found[f"{arm}_seconds"] = fit_and_score(student, parts, setting, pretrained=False)
    return found


def kept(folder: Path, name: str, seed: int, make) -> dict:
    """What `make()` returns, or what is kept of it if the code is the same."""
    key = content_key(code_version("tasks.stages.train_backbone.trainer", "tasks.stages.train_backbone.teachers"), name)
    file = folder / f"{name}-{seed}.json"
    if file.is_file() and (found := read_json(file)).get("key") == key:
        return found
    found = make() | {"set": name, "seed": seed, "key": key}
    write_json(file, found)
    print(f"{file.stem}: " + ", ".join(f"{one} {found[one]:.1f}" for one in ("teacher", *ARMS)), flush=True)
    return found


def figures(results: list[dict]) -> list[Figure]:
    """Means over sets and seeds, with the spread over all trainings."""

    def one(name: str, values: list[float], unit: str = "points") -> Figure:
        spread = f"min {min(values):.1f}, max {max(values):.1f} of {len(values)}"
        return Figure(
            name=name,
            value=float(np.mean(values)),
            unit=unit,
            goal=None,
            better="higher",
            peer="labels alone",
            seeds=len({result["seed"] for result in results}),
            spread=spread,
        )

    found = []
    for arm in (name for name in ARMS if name != "alone"):
        ending = arm.removeprefix("answers")
        gain = [result[arm] - result["alone"] for result in results]
        found.append(one(f"claim_distillation{ending}_points", gain))
    found.append(one("claim_distillation_loss_points", [result["teacher"] - result["answers"] for result in results]))
    for name in ("teacher", *ARMS):
        found.append(one(f"{name}_balanced_accuracy", [result[name] for result in results], "%"))
    times = [result["answers_seconds"] / result["alone_seconds"] for result in results]
    found.append(one("training_time_ratio", times, "x"))
    return found


def main(arguments: list[str] | None = None) -> list[dict]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kept", type=Path)
    parser.add_argument("--infrared", type=Path)
    parser.add_argument("--trashnet", type=Path)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=5, help="of the teacher")
    parser.add_argument("--students", type=int, default=20, help="epochs of the student")
    parser.add_argument("--most", type=int, default=0, help="training images, at random; 0: all")
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args(arguments)
    given.kept.mkdir(parents=True, exist_ok=True)
    files = {name: getattr(given, name) for name in ("infrared", "trashnet") if getattr(given, name)}
    results = []
    if given.quick:
        parts = made_up(0)
        results.append(kept(given.kept, "made_up", 0, lambda: measure(parts, 0, 1, 1, STUDENT)))
    for name, make in () if given.quick else long_tail.sets(files).items():
        for seed in range(given.seeds):

            def work(make=make, seed=seed) -> dict:
                return measure(few(make(seed, SIDE), given.most, seed), seed, given.epochs, given.students, LITE0)

            results.append(kept(given.kept, name, seed, work))
    said = " ".join(f"--{name} {getattr(given, name)}" for name in ("seeds", "epochs", "students", "most"))
    report("distillation", f"python -m benchmarks.distillation KEPT {said}", figures(results), given.quick)
    return results


def few(parts: dict, most: int, seed: int) -> dict:
    """`parts` with at most `most` training images, drawn at random; 0: all."""
    train = parts["train"]
    if not most or len(train.targets) <= most:
        return parts
    rows = np.sort(np.random.default_rng(seed).permutation(len(train.targets))[:most])
    return parts | {"train": type(train)(train.pixels[rows], train.targets[rows])}


def made_up(seed: int) -> dict:
    """Three classes that a colour tells, in noise: for the quick pass."""
    from benchmarks.long_tail_sets import Part

    rng, parts = np.random.default_rng(seed), {}
    for split, each in (("train", 16), ("calibration", 4), ("test", 8)):
        targets = np.repeat(np.arange(3), each)
        pixels = rng.integers(0, 100, (len(targets), SIDE, SIDE, 3), np.uint8)
        pixels[np.arange(len(targets)), :, :, targets] += 120
        parts[split] = Part(pixels, targets)
    return parts


if __name__ == "__main__":
    main()
