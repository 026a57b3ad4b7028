"""Is the automatic choice of stage 2 as good as its best method, and what do common classes pay for rare ones?

    python -m benchmarks.heads KEPT [--cifar FILE] [--infrared FILE] [--seeds 3] [--sampler natural] [--quick]

One network is trained for each set and seed, with cross entropy on the images as they come. Its features stay in KEPT,
and all methods of train_head are compared on them against the network's own classifier, by balanced accuracy on test.
Sets: the default set; CIFAR-10 (columns image, clean_label) cut to a long tail from 1,000 to 10 training images;
InfraredSolar (image, label) cut to 5,000 images.

head_vs_best_points is the automatic choice minus the method that is best on test on average, the mean over sets.
few_shot_gain_points and many_shot_loss_points are those of the automatic choice on the first two sets, for classes
below 50 and above 100 training images; the front for each bound `common_loss` is in their spread.
infrared_gain_points is its gain on InfraredSolar over the network before stage 2, which takes seconds.
head_refit_epochs is the CPU time of fitting and choosing in epochs of a plain loop over the same features (AdamW, in
batches of 64). Expected: at least 0, at least 12, at most 1, at least 8, at most 40. About five CPU minutes a seed.
"""

import argparse
import time
from pathlib import Path

import numpy as np

from benchmarks.heads_sets import Arrays, cached
from benchmarks.record import Figure, report
from benchmarks.scratch import say
from tasks.common.params import TrainHeadParams
from tasks.models.head import Head
from tasks.models.heads.methods import METHODS
from tasks.stages.train_head import fit

MANY, FEW = 100, 50  # training images, as in benchmarks.two_stage
BOUNDS = (0.5, 1.0, 2.0)  # of common_loss


def recall(head: Head, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(K,) recall in percent."""
    right = head.logits(x).argmax(axis=1) == y
    return np.array([100 * right[y == k].mean() for k in range(len(head.bias))])


def measure(arrays: Arrays, seed: int) -> dict:
    """Recalls (K,) on test by method, by the automatic choice and by each bound, and the price of the choice."""
    own, test = Head(arrays.weight, arrays.bias), (arrays.x["test"], arrays.y["test"])

    def result(**settings) -> tuple[np.ndarray, str]:
        fitted = fit(arrays.x, arrays.y, own, TrainHeadParams(seed=seed, **settings), arrays.groups)
        return recall(fitted.best.head, *test), fitted.method

    start = time.process_time()
    auto, method = result()
    seconds = time.process_time() - start
    return {
        "counts": np.bincount(arrays.y["train"], minlength=len(own.bias)),
        "auto": auto,
        "method": method,
        "each": {name: result(method=name)[0] for name in METHODS},
        "bounds": {bound: result(common_loss=bound)[0] for bound in BOUNDS},
        "epochs": seconds / epoch_seconds(arrays.x["train"], arrays.y["train"], len(own.bias)),
    }


def epoch_seconds(x: np.ndarray, y: np.ndarray, classes: int) -> float:
    """CPU seconds of one epoch of a plain loop over the features: the mean of three after a first one."""
    import torch

    features, targets = torch.from_numpy(np.asarray(x, np.float32)), torch.from_numpy(y)
    head = torch.nn.Linear(features.shape[1], classes)
    optimiser = torch.optim.AdamW(head.parameters(), lr=1e-3)
    for number in range(4):
        if number == 1:
            start = time.process_time()
        for rows in torch.randperm(len(features)).split(64):
            loss = torch.nn.functional.cross_entropy(head(features[rows]), targets[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return (time.process_time() - start) / 3


def gains(found: dict, what: np.ndarray) -> tuple[float, float]:
    """(change of few-shot classes, of many-shot ones) of recalls `what` (K,) against stage 1's classifier."""
    change, counts = what - found["each"]["stage1"], found["counts"]
    few, many = counts < FEW, counts > MANY
    gained, lost = (float(change[part].mean()) if part.any() else 0.0 for part in (few, many))
    return gained, lost


def figures_of(results: dict[str, list[dict]]) -> list[Figure]:
    """results: set -> one result of `measure` per seed."""
    behind, said = [], []
    for name, found in results.items():
        means = {method: np.mean([one["each"][method].mean() for one in found]) for method in METHODS}
        best = max(means, key=means.get)
        behind += [one["auto"].mean() - one["each"][best].mean() for one in found]
        said.append(f"{name}: best {best} {means[best]:.1f} %, cross entropy {means['stage1']:.1f} %")
    seeds = max(len(found) for found in results.values())
    chosen = ", ".join(f"{name} {'/'.join(one['method'] for one in found)}" for name, found in results.items())
    figures = [_figure("head_vs_best_points", behind, 0.0, "higher", seeds, "; ".join(said) + f"; chosen: {chosen}")]
    tails = [one for name in ("fashion", "cifar") for one in results.get(name, [])]
    if tails:
        pairs = [tuple(gains(one, one["auto"])) for one in tails]
        front = []
        for bound in BOUNDS:
            few, many = zip(*(gains(one, one["bounds"][bound]) for one in tails), strict=True)
            front.append(f"common_loss {bound:g}: {np.mean(few):+.1f} at {np.mean(many):+.1f}")
        peer = "the network's own classifier; " + ", ".join(front)
        figures.append(_figure("few_shot_gain_points", [few for few, _ in pairs], 12.0, "higher", seeds, peer))
        figures.append(_figure("many_shot_loss_points", [-many for _, many in pairs], 1.0, "lower", seeds, peer))
    if "infrared" in results:
        gained = [one["auto"].mean() - one["each"]["stage1"].mean() for one in results["infrared"]]
        peer = "the same network before stage 2, which takes seconds"
        figures.append(_figure("infrared_gain_points", gained, 8.0, "higher", len(gained), peer))
    epochs = [one["epochs"] for found in results.values() for one in found]
    peer = "one epoch of AdamW in batches of 64 over the same features, one thread"
    return [*figures, _figure("head_refit_epochs", epochs, 40.0, "lower", seeds, peer, unit="epochs")]


def _figure(name: str, values: list[float], goal: float, better: str, seeds: int, peer: str, unit: str = "points"):
    spread = "each " + ", ".join(f"{value:+.2f}" for value in values)
    return Figure(
        name=name,
        value=float(np.mean(values)),
        unit=unit,
        goal=goal,
        better=better,
        peer=peer,
        seeds=seeds,
        spread=spread,
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kept", type=Path, help="folder for the features of one network per set and seed")
    parser.add_argument("--cifar", type=Path)
    parser.add_argument("--infrared", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--sampler", default="natural", help="of stage 1; another is only printed")
    parser.add_argument("--quick", action="store_true", help="a part of the default set, one seed; records nothing")
    options = parser.parse_args(arguments)
    options.kept.mkdir(parents=True, exist_ok=True)
    files = {"fashion": None, "cifar": options.cifar, "infrared": options.infrared}
    names = [name for name, file in files.items() if name == "fashion" or (file and not options.quick)]
    results: dict[str, list[dict]] = {name: [] for name in names}
    for seed in range(1 if options.quick else options.seeds):
        for name in names:
            found = measure(cached(name, files[name], seed, options.kept, options.quick, options.sampler), seed)
            few, many = gains(found, found["auto"])
            say(
                f"{name}, seed {seed}: {found['method']} {found['auto'].mean():.2f} %, few {few:+.1f}, many {many:+.1f}"
            )
            results[name].append(found)
    command = "python -m benchmarks.heads kept --cifar cifar10.parquet --infrared infrared.parquet"
    report(
        "heads",
        f"{command} --seeds {options.seeds}",
        figures_of(results),
        options.quick or options.sampler != "natural",
    )


if __name__ == "__main__":
    main()
