"""Is the default recipe at least as good as the best simple thing to do in the same time?

    python -m benchmarks.recipe KEPT [--signs FILE] [--trashnet FILE] [--infrared FILE] [--pacs FILE]
                                [--seeds 5] [--first 0] [--only SET] [--quick]

On every set and seed, in one process, in turn, on the same rows and splits:

- recipe: stages train_backbone and train_head, with the params.yaml that `evergreen init` writes for the set
- script: a plain timm script that fine-tunes the same pretrained network at the same resolution (AdamW, cosine with
  warm-up, random crops and flips, best epoch on calibration) for as many CPU seconds
- strong: the same script with what such scripts have today: RandAugment, a class-balanced sampler, and the average of
  the weights (EMA), which is what it judges and keeps
- probe: logistic regression on the frozen network's features

Time is this process's CPU time, all on one thread. Files are Parquet with the columns image and label: belgium-signs
(split by its column pole, and by image), TrashNet, InfraredSolar and PACS (these two cut to 5,000 images). The default
set, datasets/fashion, is always there. Splits are drawn for each seed; the default set keeps its own.

Each result is one file in KEPT: a run that is stopped goes on where it was, and a changed recipe or setting is measured
again; an arm that a kept result lacks is added. recipe_vs_script_points, recipe_vs_strong_script_points and
recipe_vs_probe_points are differences of balanced accuracies on test, the mean over sets. recipe_sets_behind counts
the sets whose 95 % interval over seeds lies below 0 for one of them. Expected: above 0, at least 1, above 0, 0; about
40 CPU minutes a seed.
"""

import argparse
import io
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from benchmarks.recipe_figures import ARMS, figures_of
from benchmarks.recipe_peers import PLAIN, STRONG, Part, Script, fine_tune, linear_probe
from benchmarks.recipe_sets import ImageSet, write_manifest
from benchmarks.record import report
from benchmarks.scratch import FASHION, run_stages, say, scratch_project, small_set, timed
from flows.project.source_profile import profile_source
from flows.project.suggest import suggest_params
from tasks.common.artifacts import classes_and_task, training_rows
from tasks.common.code import code_version
from tasks.common.files import content_key, read_json, write_json
from tasks.common.params import Params, load_params, parse_params
from tasks.dataset.shards import iter_bytes
from tasks.models.head import read_head
from tasks.models.pretrained import pretrained_features
from tasks.models.stage1 import stage1_features
from tasks.scoring.metrics import balanced_accuracy
from tasks.scoring.targets import encode
from tasks.stages.runner import run_stage

QUICK = {
    "images": {"resolution": 32},
    "train_backbone": {"epochs": {"frozen": 1, "last": 0, "all": 1}},
    "clean": {"folds": 2},
}


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


def script(project: Path, params: Params, seconds: float, how: Script = PLAIN) -> dict:
    """Balanced accuracy (percent) and CPU seconds of a timm script that has as much time."""
    import torch

    classes = classes_and_task(project)[0]
    parts = {split: decoded(project, rows, classes) for split, rows in given_rows(project).items()}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with timed("script"):
            train = params.train_backbone
            score, epochs, spent = fine_tune(
                parts, len(classes), params.images.resolution, train.backbone, seconds, train.seed, how
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
    """All arms on one set and seed; `file` holds the result, and is used if recipe and settings are the same."""
    with tempfile.TemporaryDirectory(prefix="evergreen-benchmark-") as folder:
        manifest, sections = suggested(images, seed, Path(folder), quick)
        params = parse_params(sections, "the suggested parameters")
        found = {"set": images.name, "seed": seed, "key": recipe_key(params)}
        if file.is_file() and (kept := read_json(file))["key"] == found["key"]:
            found = kept
        if found.keys() >= set(ARMS):
            return found
        project = scratch_project(Path(folder) / "project", manifest, sections)
        run_stages(project, "inspect", "validate", "embed", "clean")
        arms = {
            "recipe": lambda: recipe(project),
            "script": lambda: script(project, params, found["recipe"]["seconds"]),
            "strong": lambda: script(project, params, found["recipe"]["seconds"], STRONG),
            "probe": lambda: probe(project, params),
        }
        for arm in ARMS:
            if arm not in found:
                found[arm] = arms[arm]()
                write_json(file, found)
    say(f"{images.name}, seed {seed}: " + ", ".join(f"{arm} {found[arm]['score']:.2f} %" for arm in ARMS))
    return found


def recipe_key(params: Params) -> str:
    """Changes with the code of the training stages and the settings they read."""
    code = [code_version(f"tasks.stages.{name}") for name in ("train_backbone.stage", "train_head", "clean.stage")]
    read = [getattr(params, section).model_dump() for section in ("images", "clean", "train_backbone", "train_head")]
    return content_key(*code, *read)[:16]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kept", type=Path, help="folder for one result per set and seed")
    for name in ("signs", "trashnet", "infrared", "pacs"):
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
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
        for seed in range(
            options.first, options.first + seeds
        )  # seeds in the outer loop: a run that is stopped has compared all sets
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
