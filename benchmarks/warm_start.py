"""How much of a training does a start from the champion save, and what does it cost?

    python -m benchmarks.warm_start KEPT [--infrared FILE] [--trashnet FILE] [--seeds 3] [--share 0.8] [--most N]
                                    [--device cpu] [--weights FILE] [--quick]

The champion is trained on --share of the training images (five epochs from the pretrained network, as params.yaml has
it, at 64 pixels). Then all images are there, and trainings follow: from the pretrained network, and from the champion
by each method in one and in two epochs (`warm_epochs` .2 and .4). Time is CPU time of one thread, or wall time on
another --device, with all that a start costs: features of the pretrained network and their linear classifier there,
gradients for dash here. Scores are balanced accuracy on test without the prior, as stage 1 chooses its epoch by;
stage 2 comes after it in any case.

`warm_start_time_ratio` is the time of the cheapest start from the champion that reaches the score of the training from
pretrained, on average over sets and seeds, as a share of that training's time. Expected: .4 or less.

--most N trains and tests on at most N images of each part. Each set and seed is one file in KEPT: a run that is stopped
goes on where it was. --weights reads the pretrained network from a safetensors file instead of the installed package.
"""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.long_tail import FASHION, Job, network
from benchmarks.long_tail_sets import Part, natural
from benchmarks.record import Figure, report
from tasks.common.code import code_version
from tasks.common.files import content_key, read_json, write_json
from tasks.common.params import TrainBackboneParams
from tasks.common.sections.training import UnfreezePhases

BACKBONE, SIDE = "tf_efficientnet_lite0", 64
EPOCHS = 5
METHODS = ("champion", "shrink_perturb", "dash")
SHARES = (0.2, 0.4)  # of the epochs
GOAL = 0.4


def measured(parts: dict[str, Part], seed: int, epochs: int, given: argparse.Namespace) -> Iterator[dict]:
    """One row per training: {start, epochs, seconds, score} on the test part."""
    import torch

    from tasks.backbones import timm_models
    from tasks.stages.train_backbone import feeding, judging, start, trainer, warm
    from tasks.stages.train_backbone.checkpoint import cpu_copy
    from tasks.stages.train_backbone.processes import Ranks

    torch.set_num_threads(1)
    device = torch.device(given.device)
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    classes = int(parts["train"].targets.max()) + 1
    names = [str(number) for number in range(classes)]
    mean, std = timm_models.normalisation(BACKBONE)
    rng = np.random.default_rng(seed)
    all_rows = np.arange(len(parts["train"].targets))
    first = np.sort(
        np.concatenate([one[: max(2, round(given.share * len(one)))] for one in by_class(parts["train"].targets, rng)])
    )

    def setting(**changes) -> feeding.Setting:
        params = TrainBackboneParams(seed=seed, threads=1, epochs=UnfreezePhases(all=epochs), **changes)
        return feeding.Setting(params, classes, mean, std, Ranks(0, 1, device))

    def examples(name: str, rows: np.ndarray | None = None) -> feeding.Examples:
        part = parts[name] if rows is None else Part(parts[name].pixels[rows], parts[name].targets[rows])
        return feeding.Examples(part.pixels, None, part.targets)

    def fresh():
        return network(classes, Job("fashion", "cross_entropy", seed), given.weights)

    def score(model, how: feeding.Setting) -> float:
        logits = judging.predict(model.to(device), parts["test"].pixels, how).numpy()
        counts = np.bincount(parts["train"].targets, minlength=classes)
        return judging.score(parts["test"].targets, logits, counts)[0]

    def cold(rows: np.ndarray) -> tuple[dict, float, float]:
        """(state, seconds, score) of a training from the pretrained network."""
        model, how, train, held = fresh(), setting(), examples("train", rows), examples("calibration")
        began = clock()
        known = warm.features(model, train.pixels, np.arange(len(rows)), how)
        best, _ = trainer.fit(model, feeding.Examples(train.pixels, known, train.targets), held, how)
        seconds = clock() - began
        model.load_state_dict(best)
        return cpu_copy(model.state_dict()), seconds, score(model, how)

    champion_state, _, before = cold(first)
    _, seconds, reached = cold(all_rows)
    yield {"start": "pretrained", "epochs": epochs, "seconds": seconds, "score": reached}
    last = start.classifier_name(fresh())
    head = {name: champion_state.pop(f"{last}.{name}") for name in ("weight", "bias")}
    champion = start.Champion("a" * 64, champion_state, head["weight"], head["bias"], names)
    yield {"start": "none", "epochs": 0, "seconds": 0.0, "score": before}
    for method in METHODS:
        for part in SHARES:
            model, how = fresh(), setting(start=method, warm_epochs=part)
            train, held = examples("train"), examples("calibration")
            began = clock()
            warm.put(model, champion, names, train, held, how)
            short = feeding.Setting(start.warm_params(how.params), classes, mean, std, how.ranks)
            best, history = trainer.fit(model, train, held, short)
            seconds = clock() - began
            model.load_state_dict(best)
            yield {"start": method, "epochs": len(history), "seconds": seconds, "score": score(model, how)}


def by_class(targets: np.ndarray, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """The rows of each class in random order."""
    for k in np.unique(targets):
        yield rng.permutation(np.flatnonzero(targets == k))


def figures(rows: list[dict]) -> list[Figure]:
    """The ratio, and for each start its time and its score beside the training from pretrained.

    rows: those of `measured` with {set, seed}.
    """
    cold = {(row["set"], row["seed"]): row for row in rows if row["start"] == "pretrained"}
    seeds = len({row["seed"] for row in rows})
    found, best = [], None
    for method in METHODS:
        for epochs in sorted({row["epochs"] for row in rows if row["start"] == method}):
            own = [row for row in rows if (row["start"], row["epochs"]) == (method, epochs)]
            ratios = [row["seconds"] / cold[row["set"], row["seed"]]["seconds"] for row in own]
            gains = [100 * (row["score"] - cold[row["set"], row["seed"]]["score"]) for row in own]
            name = f"warm_{method}_{epochs}_epochs"
            found.append(_figure(f"{name}_time_ratio", ratios, "times", "lower", seeds))
            found.append(_figure(f"{name}_points", gains, "points", "higher", seeds))
            if np.mean(gains) >= 0 and (best is None or np.mean(ratios) < np.mean(best[1])):
                best = f"{method}, {epochs} epochs", ratios
    before = [100 * (row["score"] - cold[row["set"], row["seed"]]["score"]) for row in rows if row["start"] == "none"]
    found.append(_figure("champion_untrained_points", before, "points", "higher", seeds))
    name, ratios = best or ("none reaches its score", [1.0])
    first = _figure("warm_start_time_ratio", ratios, "times", "lower", seeds)
    return [first.model_copy(update={"goal": GOAL, "peer": f"from pretrained; {name}"}), *found]


def _figure(name: str, values: list[float], unit: str, better, seeds: int) -> Figure:
    spread = f"min {min(values):.3g}, max {max(values):.3g} of {len(values)}"
    return Figure(
        name=name,
        value=float(np.mean(values)),
        unit=unit,
        goal=None,
        better=better,
        peer="training from pretrained",
        seeds=seeds,
        spread=spread,
    )


def some(part: Part, most: int, seed: int) -> Part:
    """At most about `most` images of `part`, each class with its share, but at least 4 of each."""
    share = most / len(part.targets)
    if share >= 1:
        return part
    rng = np.random.default_rng(seed)
    rows = np.concatenate([one[: max(4, round(share * len(one)))] for one in by_class(part.targets, rng)])
    return Part(part.pixels[rows], part.targets[rows])


def kept_rows(kept: Path, name: str, seed: int, given: argparse.Namespace, files: dict[str, Path]) -> list[dict]:
    """The rows of one set and seed, from KEPT or measured now."""
    key = content_key(
        name, seed, given.share, given.most, given.quick, given.device, SIDE, code_version("benchmarks.warm_start")
    )[:12]
    file = kept / f"{name}-{seed}-{key}.json"
    if not file.is_file():
        parts = natural(files[name], {"infrared": 0.25}.get(name, 0.6))(seed, SIDE)
        if most := 200 if given.quick else given.most:
            parts = {split: some(part, most, seed) for split, part in parts.items()}
        epochs = 1 if given.quick else EPOCHS
        rows = [row | {"set": name, "seed": seed} for row in measured(parts, seed, epochs, given)]
        write_json(file, rows)
    return read_json(file)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kept", type=Path)
    parser.add_argument("--infrared", type=Path)
    parser.add_argument("--trashnet", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--share", type=float, default=0.8)
    parser.add_argument("--most", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args(arguments)
    files = {"fashion": FASHION} | {
        name: file for name in ("infrared", "trashnet") if (file := getattr(given, name)) is not None
    }
    given.kept.mkdir(parents=True, exist_ok=True)
    rows = [
        row
        for seed in range(1 if given.quick else given.seeds)
        for name in files
        for row in kept_rows(given.kept, name, seed, given, files)
    ]
    sets = " ".join(f"--{name} FILE" for name in files if name != "fashion")
    most = f"--most {given.most}" if given.most else ""
    command = " ".join(f"python -m benchmarks.warm_start KEPT {sets} --seeds {given.seeds} {most}".split())
    report("warm_start", command, figures(rows), given.quick)


if __name__ == "__main__":
    main()
