"""How many labels do picks by each method need for what random picks reach with 2,000?

    python -m benchmarks.active KEPT [--cifar10n FILE] [--infrared FILE] [--signs FILE] [--trashnet FILE]
                                [--seeds 5] [--only SET] [--quick]

Features of the frozen pretrained network. In each set and seed, whole groups are held out as test images (30 %), the
rest is a pool without labels. Each method labels 200 images at a time, the first time without a model. After each step
a class-balanced linear head is fitted on what is labelled. It gives the probabilities for the next picks, and its
balanced accuracy on the test images counts; `plain` is the accuracy of a head without class weights. The budget of
random picks is 2,000 on CIFAR-10 and InfraredSolar, and half of the pool on the two small sets, which are there to show
a harm.

A method's labels: where its accuracy first reaches what random picks reach in the end; both are means over the seeds,
made monotone over the steps by isotonic regression. The share is labels / budget; 1.5: not reached. The claim is that
of the default method by accuracy, on the worse of the two large sets; shares by balanced accuracy are next to it.
`active_points` compares at a fifth of the budget. Images: at most MOST random ones of a set. FILEs are Parquet files
with image {bytes} and label (clean_label in CIFAR-10N, whose noisy labels are not used).

KEPT holds features and finished (set, method, seed) results, so an interrupted run goes on. Expected: see
docs/benchmarks/README.md; an hour on one core.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.record import Figure, report
from benchmarks.scratch import ROOT, say
from tasks.active.methods import METHODS
from tasks.active.pick import pick
from tasks.active.pool import Pool
from tasks.common.code import code_version
from tasks.common.files import atomic_path, content_key, read_json, write_json
from tasks.common.params import Params, ReviewParams, load_params
from tasks.models import probe
from tasks.models.folds import assign_folds

MOST = 20_000
BUDGET = 2_000  # labels of the random picks
STEPS = 10
QUICK = 30  # every QUICK-th image in a quick pass
SETS = {  # option -> column of the label, of the groups
    "cifar10n": ("clean_label", None),
    "infrared": ("label", None),
    "signs": ("label", "pole"),
    "trashnet": ("label", None),
}
GOAL_SETS = ("cifar10n", "infrared")


@dataclass(frozen=True)
class LabelledSet:
    """N images with their features (N, D), class numbers (N,) and group names (N,)."""

    name: str
    x: np.ndarray
    y: np.ndarray
    groups: np.ndarray


def read_set(name: str, file: Path, kept: Path, params: Params, step: int) -> LabelledSet:
    """The set in `file` with its features, which are kept in `kept`."""
    key = content_key(params.embed.backbone, params.images.resolution, step, MOST, pq.read_metadata(file).num_rows)[:8]
    cache = kept / "features" / f"{name}-{key}.npz"
    if not cache.is_file():
        cache.parent.mkdir(parents=True, exist_ok=True)
        label, group = SETS[name]
        table = pq.read_table(file, columns=["image", label, *([group] if group else [])])
        order = np.random.default_rng(0).permutation(len(table))[:MOST][::step]
        table = table.take(pa.array(np.sort(order)))
        _, y = np.unique(table[label].to_pylist(), return_inverse=True)
        groups = np.array(table[group].to_pylist() if group else [str(row) for row in range(len(table))])
        x = features(table["image"].combine_chunks().field("bytes").to_pylist(), params, kept)
        with atomic_path(cache) as temporary, open(temporary, "wb") as out:
            np.savez(out, x=x, y=y, groups=groups)
    found = np.load(cache)
    return LabelledSet(name, found["x"].astype(np.float32), found["y"], found["groups"])


def features(images: list[bytes], params: Params, kept: Path) -> np.ndarray:
    """(N, D) float16 features of the pretrained backbone, as stage `embed` computes them."""
    from tasks.backbones import frozen, timm_models
    from tasks.dataset.decode import preprocess

    how, backbone, batch = params.images, params.embed.backbone, params.embed.batch_size
    network = frozen.frozen_network(
        lambda: timm_models.create_model(backbone, "auto", 0, how.resolution),
        *timm_models.normalisation(backbone),
        size=how.resolution,
        batch_size=batch,
        export_file=kept / f"{backbone}-{how.resolution}-{batch}.onnx",
    )
    parts = []
    for start in range(0, len(images), batch):
        chosen = images[start : start + batch]
        pixels = np.stack([preprocess(one, how.resolution, how.fit, how.max_pixels) for one in chosen])
        parts.append(network(pixels).astype(np.float16))
        if start % 4096 == 0:
            say(f"  features {start} of {len(images)}")
    return np.concatenate(parts)


def simulate(one: LabelledSet, method: str, seed: int) -> dict[str, list[float]]:
    """Labels given so far and the test accuracies (percent) of what they teach, after each step."""
    k = int(one.y.max()) + 1
    members = one.y[:, None] == np.arange(k)
    test = np.isin(assign_folds(members, one.groups, 10, seed), [0, 1, 2])
    x, y, pool = one.x[~test], one.y[~test], np.arange((~test).sum())
    budget = min(BUDGET, len(pool) // 2)
    found: dict[str, list[float]] = {"labels": [], "balanced": [], "plain": []}
    mine, head = np.empty(0, int), None
    for step in range(STEPS):
        left = np.setdiff1d(pool, mine)
        candidates = Pool(
            x[left],
            head.probabilities(x[left]) if head else None,
            head=head,
            labelled=x[mine],
            counts=np.bincount(y[mine], minlength=k),
        )
        count = budget * (step + 1) // STEPS - len(mine)
        picks = pick(candidates, count, method, seed=seed)
        mine = np.concatenate([mine, left[[one.row for one in picks]]])
        share = 1 / np.bincount(y[mine], minlength=k).clip(1)
        head = probe.fit(x[mine], y[mine], k, sample_weight=share[y[mine]])
        natural = probe.fit(x[mine], y[mine], k)
        found["labels"].append(len(mine))
        right = head.logits(one.x[test]).argmax(axis=1) == one.y[test]
        found["balanced"].append(100 * float(np.mean([right[one.y[test] == c].mean() for c in np.unique(one.y[test])])))
        found["plain"].append(100 * float((natural.logits(one.x[test]).argmax(axis=1) == one.y[test]).mean()))
    return found


def kept_result(one: LabelledSet, method: str, seed: int, kept: Path) -> dict[str, list[float]]:
    key = content_key(*map(code_version, ("tasks.active.pick", "tasks.models.folds")), len(one.x), BUDGET, STEPS)
    file = kept / "results" / f"{one.name}-{method}-{seed}-{key[:12]}.json"
    if not file.is_file():
        write_json(file, simulate(one, method, seed))
        done = read_json(file)
        at = len(done["balanced"]) // 5 - 1
        say(
            f"  {one.name:10} {method:12} seed {seed}: "
            f"balanced {done['balanced'][at]:.1f} .. {done['balanced'][-1]:.1f}, "
            f"plain {done['plain'][at]:.1f} .. {done['plain'][-1]:.1f}"
        )
    return read_json(file)


def labels_for(target: float, labels: np.ndarray, scores: np.ndarray) -> float:
    """The number of `labels` (T,) at which `scores` (T,) that never fall first reach `target`; inf: never."""
    if scores[-1] < target:
        return np.inf
    at = int(np.argmax(scores >= target))
    if at == 0:
        return float(labels[0])
    part = (target - scores[at - 1]) / (scores[at] - scores[at - 1])
    return float(labels[at - 1] + part * (labels[at] - labels[at - 1]))


def share_of_random(results: list[dict], randoms: list[dict], metric: str) -> float:
    """Labels needed for what random picks reach in the end, of the mean curves over the seeds, per label of theirs.

    More than 1: the method needs more; 1.5 stands for "not reached".
    """
    from sklearn.isotonic import isotonic_regression

    means = (np.mean([one[metric] for one in found], axis=0) for found in (results, randoms))
    curve, base = (isotonic_regression(mean) for mean in means)
    labels = np.array(results[0]["labels"])
    return min(labels_for(float(base[-1]), labels, curve) / labels[-1], 1.5)


def shares(results: list[dict], randoms: list[dict], metric: str) -> list[float]:
    """The same for each seed alone."""
    return [share_of_random([one], [base], metric) for one, base in zip(results, randoms, strict=True)]


def figures_of(found: dict[str, dict[str, list[dict]]], default: str) -> list[Figure]:
    """found: set -> method -> results per seed."""
    figures = []
    goal_sets = [name for name in found if name in GOAL_SETS] or list(found)
    worst = {m: max(share_of_random(found[s][m], found[s]["random"], "plain") for s in goal_sets) for m in METHODS}
    figures.append(
        Figure(
            name="claim_active_label_share",
            value=worst[default],
            unit="",
            goal=1.0,
            better="lower",
            peer=f"worse of {' and '.join(goal_sets)} by method: {_each(worst, '.2f')}",
            seeds=len(found[goal_sets[0]]["random"]),
            spread=f"{default}, the default",
        )
    )
    for name, methods in found.items():
        randoms, budget = methods["random"], methods["random"][0]["labels"][-1]
        common = {"goal": None, "seeds": len(randoms)}
        for metric in ("balanced", "plain"):
            of = {method: share_of_random(results, randoms, metric) for method, results in methods.items()}
            alone = shares(methods[default], randoms, metric)
            what = {"balanced": "balanced accuracy", "plain": "accuracy"}[metric]
            figures.append(
                Figure(
                    name=f"active_label_share_{name}_{metric}",
                    value=of[default],
                    unit="",
                    better="lower",
                    peer=_each(of, ".2f"),
                    spread=f"min {min(alone):.2f}, max {max(alone):.2f} of {len(alone)}; random reaches "
                    f"{np.mean([one[metric][-1] for one in randoms]):.1f} % {what} with {budget:.0f}",
                    **common,
                )
            )
        at = STEPS // 5 - 1
        gains = {
            method: [a["balanced"][at] - b["balanced"][at] for a, b in zip(results, randoms, strict=True)]
            for method, results in methods.items()
        }
        figures.append(
            Figure(
                name=f"active_points_{name}",
                value=float(np.mean(gains[default])),
                unit="points",
                better="higher",
                peer=_each({method: float(np.mean(values)) for method, values in gains.items()}, "+.1f"),
                spread=f"min {min(gains[default]):+.1f}, max {max(gains[default]):+.1f}, with {budget // 5:.0f} labels",
                **common,
            )
        )
    return figures


def _each(values: dict[str, float], form: str) -> str:
    return ", ".join(f"{name} {value:{form}}" for name, value in values.items())


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kept", type=Path, help="folder for features and results")
    for name in SETS:
        parser.add_argument(f"--{name}", type=Path, help="Parquet file")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", help="measure this set only; records nothing")
    parser.add_argument("--quick", action="store_true", help="a few images, one seed; records nothing")
    options = parser.parse_args(arguments)
    params = load_params(ROOT / "params.yaml")
    files = {name: file for name in SETS if (file := getattr(options, name)) and options.only in (None, name)}
    if not files:
        parser.error(f"name at least one file: {', '.join(f'--{name}' for name in SETS)}")
    found = {}
    for name, file in files.items():
        one = read_set(name, file, options.kept, params, QUICK if options.quick else 1)
        seeds = range(1 if options.quick else options.seeds)
        found[name] = {method: [kept_result(one, method, seed, options.kept) for seed in seeds] for method in METHODS}
    command = " ".join(["python -m benchmarks.active KEPT", *(f"--{name} {file.name}" for name, file in files.items())])
    command += f" --seeds {options.seeds}"
    report("active", command, figures_of(found, ReviewParams().method), options.quick or bool(options.only))


if __name__ == "__main__":
    main()
