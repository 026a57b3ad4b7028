"""Does everyone get a first model, or a way to one, and do shuffled labels get none?

    python -m benchmarks.first_model DATA.parquet[:GROUP] ... [--folder FOLDER] [--quick]

Draws SETS small sets (60 to 600 images, 2 to 20 classes) from the given image Parquet files (columns image, label and,
after a colon, the column of the groups; every second set of such a file ignores it), and SHUFFLED sets whose labels
are shuffled over images or groups. Each is a project of its own with the parameters that `evergreen init --fast`
suggests, but for SMALL. All stages run in this process, and the gate judges the model as a first one: it is live,
provisional or refused. What is refused follows its first remedy that a program can follow (more labels or groups are
drawn from the same file, a setting is changed), up to ROUNDS times.

Expected: no real set without a way [first_model_dead_ends = 0]; no shuffled set live [shuffled_live = 0]. A set takes
some 20 seconds of a core. Results are kept in FOLDER, one file per set: a killed run goes on where it was. `--quick`
draws three sets from datasets/fashion.
"""

import argparse
import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.record import Figure, report
from benchmarks.scratch import FASHION, change_params, run_stages, say, scratch_project
from flows.project.source_profile import profile_source
from flows.project.suggest import suggest_params
from flows.publishing.diagnose import first_model_remedies
from flows.publishing.judge_run import judge_run
from flows.publishing.remedies import table_remedies
from tasks.common.errors import EvergreenError, TableRefused
from tasks.common.files import read_json, write_json
from tasks.common.params import load_params
from tasks.releases.store import open_store
from tasks.stages.runner import STAGES

SETS, SHUFFLED = 30, 20
IMAGES, CLASSES = (60, 600), (2, 20)
ROUNDS = 3
MORE = 3  # times as many images where a remedy asks for more
SMALL = {  # every stage does its real work, on little
    "images": {"resolution": 48},
    "train_backbone": {"epochs": {"frozen": 3, "last": 2, "all": 2}},
    "evaluate": {"latency_runs": 5},
    "bundle": {"reference_rows": 40},
    "gate": {"max_latency_ms": 10_000.0},  # a busy machine is not what is measured here
}
LIVE = ("live", "provisional")


class Source(NamedTuple):
    """An image Parquet file, and the column that says which images belong together."""

    file: Path
    group: str | None


class Draw(NamedTuple):
    """What a set is drawn with; `times` grows where a remedy asks for more images."""

    source: Source
    seed: int
    shuffled: bool
    times: int = 1


def draw(how: Draw) -> pa.Table:
    """A small set: columns image, label and perhaps group."""
    rng = np.random.default_rng(how.seed)
    table = pq.read_table(how.source.file)
    labels = np.array(table["label"].to_pylist())
    names, counts = np.unique(labels, return_counts=True)
    images = int(np.exp(rng.uniform(*np.log(IMAGES))))
    most = min(CLASSES[1], len(names), images // 8)
    number = round(np.exp(rng.uniform(np.log(CLASSES[0]), np.log(max(most, CLASSES[0] + 1)))))
    able = names[counts >= min(8, counts.max())]
    chosen = rng.choice(able, min(max(number, CLASSES[0]), len(able)), replace=False)
    rows = np.concatenate(
        [
            rng.permutation(np.flatnonzero(labels == name))[: max(6, images // len(chosen)) * how.times]
            for name in chosen
        ]
    )
    rows.sort()
    columns = {"image": table["image"].take(pa.array(rows)), "label": pa.array(labels[rows].tolist())}
    grouped = how.source.group is not None and how.seed % 2 == 0
    if grouped:
        columns["group"] = pa.array([str(name) for name in table[how.source.group].take(pa.array(rows)).to_pylist()])
    if how.shuffled:
        columns["label"] = pa.array(shuffled(labels[rows], columns["group"].to_pylist() if grouped else None, rng))
    return pa.table(columns)


def shuffled(labels: np.ndarray, groups: list[str] | None, rng: np.random.Generator) -> list[str]:
    """`labels` dealt again: to whole groups, which keep one label each, or to single images."""
    if groups is None:
        return rng.permutation(labels).tolist()
    first = {name: label for name, label in zip(reversed(groups), reversed(labels.tolist()), strict=True)}
    dealt = dict(zip(first, rng.permutation(list(first.values())).tolist(), strict=True))
    return [dealt[name] for name in groups]


def try_set(how: Draw, folder: Path, changes: list[dict], small: dict = SMALL) -> dict[str, Any]:
    """One project over the set: {outcome, sentence, remedies, figures}."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    file = folder / "set.parquet"
    table = draw(how)
    pq.write_table(table, file)
    about = {
        "images": len(table),
        "classes": len(set(table["label"].to_pylist())),
        "grouped": "group" in table.column_names,
    }
    remedies: list = []
    try:
        params, _ = suggest_params(profile_source(file))
        project = scratch_project(folder / "project", file, params.model_dump(mode="json", by_alias=True))
        for change in (small, *changes):
            change_params(project, change)
        run_stages(project, *STAGES)
        now = load_params(project / "params.yaml")
        verdict = judge_run(project, now, open_store(now.store, project), None)
        remedies = [one.model_dump() for one in first_model_remedies(project, now, "run", verdict)]
        outcome = "refused" if verdict.outcome != "promote" else "provisional" if verdict.provisional else "live"
        sentence = verdict.sentence
        about |= {name: read_json(project / f"metrics/{stage}.json")[key] for name, stage, key in MEASURED}
    except TableRefused as error:
        outcome, sentence = "refused", str(error)
        remedies = [one.model_dump() for one in table_remedies(error.checks)]
    except EvergreenError as error:
        outcome, sentence = "refused", f"{type(error).__name__}: {error}"
    shutil.rmtree(folder, ignore_errors=True)
    return {"outcome": outcome, "sentence": sentence, "remedies": remedies} | about


MEASURED = (("test", "evaluate", "skill"), ("calibration", "calibrate", "skill"), ("network", "train_head", "network"))


def follow(remedy: dict, how: Draw, changes: list[dict]) -> tuple[Draw, list[dict]] | None:
    """The next try by `remedy`; None where only a person can follow it."""
    kind, text = remedy["kind"], remedy["text"]
    if kind in ("labels", "groups"):
        return how._replace(times=how.times * MORE), changes
    if kind == "classes":
        left = sorted(set(draw(how)["label"].to_pylist()) - set(remedy["classes"]))
        return how, [*changes, {"data": {"classes": left}}]
    if kind == "resolution":
        return how, [*changes, {"images": {"resolution": int(text.split("images.resolution: ")[1].split("`")[0])}}]
    if kind == "setting" and "gate.max_ece" in text:
        return how, [*changes, {"gate": {"max_ece": 0.3}}]
    if kind == "setting" and "evaluate.corruptions" in text:
        return how, [*changes, {"evaluate": {"corruptions": ["jpeg"]}}]
    return None


def measure(how: Draw, folder: Path, rounds: int, small: dict = SMALL) -> dict[str, Any]:
    """The tries over one set until it is live or provisional, the first one first."""
    tries, changes = [], []
    while True:
        found = try_set(how, folder, changes, small)
        tries.append(found | {"times": how.times, "changes": changes})
        name = f"{how.source.file.stem} {how.seed}{' shuffled' if how.shuffled else ''}"
        say(f"{name}: {found['outcome']}: {found['sentence']}")
        if found["outcome"] in LIVE or how.shuffled or len(tries) > rounds:
            break
        followed = (follow(remedy, how, changes) for remedy in found["remedies"])
        step = next((one for one in followed if one is not None), None)
        if step is None:
            break
        how, changes = step
    return {"source": how.source.file.stem, "seed": how.seed, "shuffled": how.shuffled, "tries": tries}


def figures_of(found: list[dict]) -> list[Figure]:
    """The figures of all measured sets."""
    real = [one for one in found if not one["shuffled"]]
    mixed = [one for one in found if one["shuffled"]]
    first = Counter(one["tries"][0]["outcome"] for one in real)
    later = sum(one["tries"][0]["outcome"] not in LIVE and one["tries"][-1]["outcome"] in LIVE for one in real)
    dead = [one for one in real if one["tries"][-1]["outcome"] not in LIVE]
    live = [one for one in mixed if one["tries"][0]["outcome"] in LIVE]
    probes = sum(one["tries"][-1].get("network") == "pretrained" for one in real)
    spread = f"{first['live']} live, {first['provisional']} provisional, {first['refused']} refused, "
    spread += f"{later} of these live or provisional after a remedy"
    common = {"unit": "sets", "goal": 0, "better": "lower"}
    return [
        Figure(
            name="first_model_dead_ends",
            value=len(dead),
            seeds=len(real),
            spread=f"{spread}; {probes} probes",
            **common,
        ),
        Figure(name="shuffled_live", value=len(live), seeds=len(mixed), **common),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="*")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    if not (options.data or options.quick):
        parser.error("name one or more image Parquet files")
    sources = [Source(Path(name.partition(":")[0]), name.partition(":")[2] or None) for name in options.data]
    sources = sources or [Source(FASHION / "base.parquet", None)]
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch)
        found = measure_all(sources, folder, options.quick)
    command = "python -m benchmarks.first_model " + " ".join(options.data)
    report("first_model", command, figures_of(found), options.quick)


def measure_all(sources: list[Source], folder: Path, quick: bool) -> list[dict]:
    """All sets, real and shuffled in turn; those with a file in `folder` are read from it."""
    sets, mixed = (2, 1) if quick else (SETS, SHUFFLED)
    plan = [(seed, False) for seed in range(sets)] + [(seed, True) for seed in range(mixed)]
    found = []
    for seed, shuffle in sorted(plan):
        file = folder / f"{'shuffled' if shuffle else 'set'}-{seed}.json"
        if not file.is_file():
            source = sources[seed // 2 % len(sources)]
            write_json(file, measure(Draw(source, seed, shuffle), folder / "work", 0 if quick else ROUNDS))
        found.append(read_json(file))
    return found


if __name__ == "__main__":
    main()
