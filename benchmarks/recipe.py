"""Is the default recipe at least as good as the best simple thing to do in the same time?

    python -m benchmarks.recipe KEPT [--signs FILE] [--trashnet FILE] [--infrared FILE] [--pacs FILE]
                                [--seeds 5] [--only SET] [--quick]

On every set and seed, in one process, in turn, on the same rows and splits:

- recipe: stages train_backbone and train_head, with the params.yaml that `evergreen init` writes for the set
- script: a plain timm script that fine-tunes the same pretrained network at the same resolution (AdamW, cosine with
  warm-up, random crops and flips, best epoch on calibration) for as many CPU seconds
- probe: logistic regression on the frozen network's features

Time is this process's CPU time, all on one thread. Files are Parquet with the columns image and label: belgium-signs
(split by its column pole, and by image), TrashNet, InfraredSolar and PACS (these two cut to 5,000 images). The default
set, datasets/fashion, is always there. Splits are drawn for each seed; the default set keeps its own.

Each result is one file in KEPT: a run that is stopped goes on where it was, and a changed recipe or setting is measured
again. recipe_vs_script_points and recipe_vs_probe_points are differences of balanced accuracies on test, the mean over
sets. recipe_sets_behind counts the sets whose 95 % interval over seeds lies below 0 for one of the two. Expected:
above 0, above 0, 0; about 30 CPU minutes a seed.
"""

import argparse
import io
import math
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from benchmarks.recipe_peers import Part, fine_tune, linear_probe
from benchmarks.record import Figure, report
from benchmarks.scratch import FASHION, run_stages, say, scratch_project, small_set, timed
from flows.project.suggest import profile_source, suggest_params
from tasks.common.artifacts import classes_and_task, training_rows
from tasks.common.code import code_version
from tasks.common.files import atomic_path, content_key, read_json, write_json
from tasks.common.params import Params, load_params, parse_params
from tasks.dataset.shards import iter_bytes
from tasks.models.head import read_head
from tasks.models.pretrained import pretrained_features
from tasks.models.stage1 import stage1_features
from tasks.scoring.metrics import balanced_accuracy
from tasks.scoring.targets import encode
from tasks.stages.runner import run_stage

MOST = 5_000  # images of a set
FOLDS = 20  # three are test, three calibration
ARMS = ("recipe", "script", "probe")
QUICK = {
    "images": {"resolution": 32},
    "train_backbone": {"epochs": {"frozen": 1, "last": 0, "all": 1}},
    "clean": {"folds": 2},
}


@dataclass(frozen=True)
class ImageSet:
    """`group`: the column whose values are not divided between splits, "split" if the file has one, or None."""

    name: str
    file: Path
    group: str | None = None


def split_by_group(labels: np.ndarray, groups: np.ndarray, seed: int) -> np.ndarray:
    """(N,) "train", "calibration" or "test", about 70 : 15 : 15 in each class, no group in two of them.

    A class that would have nothing to train on goes to train as a whole.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    split = np.full(len(labels), "train", dtype="<U11")
    dealt = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed).split(labels, labels, groups)
    for number, (_, rows) in zip(range(6), dealt, strict=False):
        split[rows] = "test" if number < 3 else "calibration"
    split[~np.isin(labels, labels[split == "train"])] = "train"
    return split


def write_manifest(images: ImageSet, seed: int, file: Path, most: int = MOST) -> Path:
    """Write `images` with the splits of `seed` (columns image, label, split, group) to `file`."""
    table = pq.read_table(images.file)
    if len(table) > most:
        table = table.take(pa.array(np.sort(np.random.default_rng(seed).choice(len(table), most, replace=False))))
    labels = table["label"].to_numpy(zero_copy_only=False).astype(str)
    groups = table[images.group].to_numpy(zero_copy_only=False) if images.group else np.arange(len(table))
    groups = np.unique(groups.astype(str), return_inverse=True)[1]
    columns = {"image": table["image"], "label": labels, "split": split_by_group(labels, groups, seed)}
    if images.group:
        columns["group"] = table[images.group]
    with atomic_path(file) as temporary:
        pq.write_table(pa.table(columns), temporary, row_group_size=64)
    return file


def suggested(images: ImageSet, seed: int, folder: Path, quick: bool) -> tuple[Path, dict]:
    """(manifest, sections of params.yaml as `evergreen init` suggests them, on one thread and with `seed`)."""
    own_split = images.group == "split"
    manifest = images.file if own_split else write_manifest(images, seed, folder / "set.parquet")
    sections = suggest_params(profile_source(manifest))[0].model_dump(mode="json", by_alias=True)
    sections["train_backbone"] |= {"seed": seed, "threads": 1}
    sections["train_head"] |= {"seed": seed}
    for name, values in (QUICK if quick else {}).items():
        sections[name] |= values
    return manifest, sections


def recipe(project: Path) -> dict:
    """Balanced accuracy (percent) and CPU seconds of both training stages."""
    with timed("recipe") as clock:
        run_stage("train_backbone", project)
        run_stage("train_head", project)
    params, (classes, task) = load_params(project / "params.yaml"), classes_and_task(project)
    rows = training_rows(project)["test"]
    predicted = read_head(project).logits(stage1_features(project, rows, params.images)).argmax(axis=1)
    score = balanced_accuracy(encode(rows["label"], classes, task), predicted, len(classes))
    return {
        "score": 100 * score,
        "seconds": clock.cpu,
        "how": read_json(project / "artifacts/train_head/head.json")["method"],
    }


def given_rows(project: Path) -> dict[str, pa.Table]:
    """Split -> labelled rows with the labels as given: what a person without `clean` would train on."""
    import pyarrow.compute as pc

    accepted = pq.read_table(project / "artifacts/validate/accepted.parquet")
    accepted = accepted.filter(pc.is_valid(accepted["label"]))
    return {split: accepted.filter(pc.equal(accepted["split"], split)) for split in ("train", "calibration", "test")}


def decoded(project: Path, rows: pa.Table, classes: list[str]) -> Part:
    """The images of `rows` in their own size, at most 256 pixels, with their class numbers."""
    places: dict[str, list[tuple[int, int]]] = {}
    for number, (shard, row) in enumerate(zip(rows["shard"].to_pylist(), rows["row"].to_pylist(), strict=True)):
        places.setdefault(shard, []).append((row, number))
    images: list[Image.Image] = [Image.new("RGB", (1, 1))] * len(rows)
    for shard, wanted in places.items():
        number_of = dict(wanted)
        for row, data in iter_bytes(project / "data" / shard, sorted(number_of)):
            image = Image.open(io.BytesIO(data)).convert("RGB")
            image.thumbnail((256, 256))
            images[number_of[row]] = image
    return Part(images, encode(rows["label"], classes, "multiclass"))


def script(project: Path, params: Params, seconds: float) -> dict:
    """Balanced accuracy (percent) and CPU seconds of the plain timm script."""
    import torch

    classes = classes_and_task(project)[0]
    parts = {split: decoded(project, rows, classes) for split, rows in given_rows(project).items()}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with timed("script"):
            train = params.train_backbone
            score, epochs, spent = fine_tune(
                parts, len(classes), params.images.resolution, train.backbone, seconds, train.seed
            )
    finally:
        torch.set_num_threads(threads)
    return {"score": 100 * score, "seconds": spent, "how": f"{epochs:g} epochs"}


def probe(project: Path, params: Params) -> dict:
    """Balanced accuracy (percent) and CPU seconds of logistic regression on frozen features."""
    classes, rows = classes_and_task(project)[0], given_rows(project)
    x = {
        split: pretrained_features(project, part, embed=params.embed, images=params.images)[:].astype(np.float32)
        for split, part in rows.items()
    }
    y = {split: encode(part["label"], classes, "multiclass") for split, part in rows.items()}
    with timed("probe"):
        score, strength, seconds = linear_probe(x, y, len(classes))
    return {"score": 100 * score, "seconds": seconds, "how": f"C = {strength:g}"}


def measure(images: ImageSet, seed: int, file: Path, quick: bool = False) -> dict:
    """The three arms on one set and seed; `file` holds the result, and is read if recipe and settings are the same."""
    with tempfile.TemporaryDirectory(prefix="evergreen-benchmark-") as folder:
        manifest, sections = suggested(images, seed, Path(folder), quick)
        params = parse_params(sections, "the suggested parameters")
        key = recipe_key(params)
        if file.is_file() and (kept := read_json(file))["key"] == key:
            return kept
        project = scratch_project(Path(folder) / "project", manifest, sections)
        run_stages(project, "inspect", "validate", "embed", "clean")
        found = {"set": images.name, "seed": seed, "key": key, "recipe": recipe(project)}
        found["script"] = script(project, params, found["recipe"]["seconds"])
        found["probe"] = probe(project, params)
    write_json(file, found)
    say(f"{images.name}, seed {seed}: " + ", ".join(f"{arm} {found[arm]['score']:.2f} %" for arm in ARMS))
    return found


def recipe_key(params: Params) -> str:
    """Changes with the code of the training stages and the settings they read."""
    code = [code_version(f"tasks.stages.{name}") for name in ("train_backbone.stage", "train_head", "clean.stage")]
    read = [getattr(params, section).model_dump() for section in ("images", "clean", "train_backbone", "train_head")]
    return content_key(*code, *read)[:16]


def interval(differences: list[float]) -> tuple[float, float]:
    """95 % interval of the mean (Student's t); one difference alone says nothing."""
    from scipy.stats import t

    if len(differences) < 2:
        return -math.inf, math.inf
    half = t.ppf(0.975, len(differences) - 1) * np.std(differences, ddof=1) / math.sqrt(len(differences))
    mean = float(np.mean(differences))
    return mean - half, mean + half


def by_set(results: list[dict]) -> Iterator[tuple[str, list[dict]]]:
    for name in dict.fromkeys(one["set"] for one in results):
        yield name, [one for one in results if one["set"] == name]


def gains(results: list[dict], peer: str) -> list[float]:
    """Points by which the recipe is ahead of `peer`, for each result."""
    return [one["recipe"]["score"] - one[peer]["score"] for one in results]


def figures_of(results: list[dict]) -> list[Figure]:
    """Means over sets, the sets that are behind, and each set's own figures."""
    sets = dict(by_set(results))
    seeds = min(map(len, sets.values()))
    figures = []
    for peer, words in (("script", "a plain timm script in the same time"), ("probe", "a probe on frozen features")):
        each = {name: float(np.mean(gains(some, peer))) for name, some in sets.items()}
        figures.append(
            Figure(
                name=f"recipe_vs_{peer}_points",
                value=float(np.mean(list(each.values()))),
                unit="points",
                goal=0.0,
                better="higher",
                peer=words,
                seeds=seeds,
                spread=", ".join(f"{name} {value:+.1f}" for name, value in each.items()),
            )
        )
    behind = [
        f"{name} ({peer})"
        for name, some in sets.items()
        for peer in ("script", "probe")
        if interval(gains(some, peer))[1] < 0
    ]
    figures.append(
        Figure(
            name="recipe_sets_behind",
            value=len({name.split(" (")[0] for name in behind}),
            unit=f"of {len(sets)} sets",
            goal=0.0,
            better="lower",
            peer="95 % interval over seeds wholly below 0",
            seeds=seeds,
            spread=", ".join(behind) or "none",
        )
    )
    return figures + [_set_figure(name, some) for name, some in sets.items()]


def _set_figure(name: str, results: list[dict]) -> Figure:
    def mean(arm: str, key: str) -> float:
        return float(np.mean([one[arm][key] for one in results]))

    low, high = interval(gains(results, "script"))
    bounds = f" ({low:+.1f} to {high:+.1f})" if len(results) > 1 else ""
    return Figure(
        name=f"recipe_{name}_points",
        value=mean("recipe", "score"),
        unit="% balanced accuracy",
        goal=None,
        better="higher",
        peer=f"script {mean('script', 'score'):.1f} %, probe {mean('probe', 'score'):.1f} %",
        seeds=len(results),
        spread=f"ahead of the script by {np.mean(gains(results, 'script')):+.1f}{bounds}; CPU seconds "
        + " / ".join(f"{mean(arm, 'seconds'):.0f}" for arm in ARMS),
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kept", type=Path, help="folder for one result per set and seed")
    for name in ("signs", "trashnet", "infrared", "pacs"):
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", help="measure this set alone, and record nothing")
    parser.add_argument("--quick", action="store_true", help="a part of the default set, one seed; records nothing")
    options = parser.parse_args(arguments)
    options.kept.mkdir(parents=True, exist_ok=True)
    sets = [ImageSet("fashion", FASHION / "base.parquet", "split")]
    if options.signs:
        sets += [ImageSet("signs_by_pole", options.signs, "pole"), ImageSet("signs_by_image", options.signs)]
    for name in ("trashnet", "infrared", "pacs"):
        if file := getattr(options, name):
            sets.append(ImageSet(name, file))
    if options.quick:
        sets = [ImageSet("fashion", small_set(options.kept / "small.parquet", divisor=16))]
    sets = [one for one in sets if options.only in (None, one.name)]
    seeds = 1 if options.quick else options.seeds
    results = [
        measure(images, seed, options.kept / f"{images.name}-{seed}.json", options.quick)
        for seed in range(seeds)  # seeds in the outer loop: a run that is stopped has compared all sets
        for images in sets
    ]
    if results:
        named = "".join(f" --{name} {name}.parquet" for name in ("signs", "trashnet", "infrared", "pacs"))
        report(
            "recipe",
            f"python -m benchmarks.recipe kept{named}",
            figures_of(results),
            bool(options.quick or options.only),
        )


if __name__ == "__main__":
    main()
