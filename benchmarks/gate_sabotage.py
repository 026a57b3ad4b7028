"""Real models spoiled on purpose, for benchmarks.gate: each is judged as a retraining's model is.

A champion is trained on a quarter of the images and a challenger on all, which the gate promotes. Then the challenger
is spoiled in one way at a time: its head, its exported graph, its calibration, the files about it, or its data. The
stages that follow run again, and flows.publishing.judge_run judges. None may be promoted.

K classes, D feature dimensions. Every verdict is kept in a folder, and a second call goes on where the first stopped.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks import gate_graphs
from benchmarks.gate_heads import (
    MODEL,
    broken_camera,
    broken_slice,
    change_head,
    diverge,
    few_images,
    forget,
    guess,
    lump,
    never,
    noisy_labels,
    refit,
    roll,
    swap,
    wrong_on_hard,
)
from benchmarks.scratch import run_stages, say, scratch_project
from flows.publishing.judge_run import judge_run
from tasks.common.artifacts import classes_and_task, training_rows
from tasks.common.errors import EvergreenError
from tasks.common.files import atomic_path, read_json, write_json
from tasks.common.params import load_params
from tasks.gate.verdict import GateVerdict
from tasks.ingest.batch import ingest
from tasks.releases.pointer import successor
from tasks.releases.store import Releases, open_store
from tasks.scoring.metrics import accuracy, balanced_accuracy
from tasks.stages.runner import STAGES

SMALL = {
    "images": {"resolution": 48},
    "train_backbone": {"epochs": {"frozen": 1, "last": 0, "all": 0}},
    "clean": {"max_changed_share": 0.0},
    "evaluate": {"corruption_images": 200, "latency_runs": 10},
    "gate": {"max_size_mb": 30.0},
}
LATENCY = 1_000.0  # milliseconds: more than other work on the machine costs
PARTS = {"train": 0.5, "calibration": 0.12, "test": 0.3, "hard": 0.08}
EARLY = 0.25  # share of the training images that the champion knows, and half of the test images
DIM = 0.25  # darkest share of the images: the slice light=dim
PREDICTIONS, METRICS = "artifacts/evaluate/predictions.parquet", "metrics/evaluate.json"
RETRAIN, EXPORTED = ("calibrate", "evaluate", "bundle"), ("evaluate", "bundle")


def divide(file: Path, folder: Path, most: int, source: str) -> tuple[Path, Path]:
    """(images of the champion, images that came later), drawn from `file`; `source`: its column of cameras."""
    from PIL import Image

    table = pq.read_table(file)
    if "split" in table.column_names:
        table = table.filter(pc.equal(table["split"], "test"))
    rng = np.random.default_rng(0)
    table = table.take(pa.array(rng.permutation(len(table))[:most]))
    images = (Image.open(BytesIO(row["bytes"])).convert("L") for row in table["image"].to_pylist())
    light = np.array([np.asarray(image).mean() for image in images])
    split = rng.choice(list(PARTS), len(table), p=list(PARTS.values()))
    early = rng.random(len(table)) < np.select([split == "train", split == "test"], [EARLY, 0.5], 1.0)
    columns = {
        "image": table["image"],
        "label": table["label"],
        "split": pa.array(split.tolist()),
        "source": table[source],
        "slice_light": pa.array(np.where(light < np.quantile(light, DIM), "dim", "bright").tolist()),
    }
    files = folder / "early.parquet", folder / "late.parquet"
    for place, rows in zip(files, (early, ~early), strict=True):
        pq.write_table(pa.table(columns).filter(pa.array(rows)), place)
    return files


def add(project: Path, file: Path) -> None:
    params = load_params(project / "params.yaml")
    ingest(project, file, data=params.data, images=params.images, inspect=params.inspect)


def promote(project: Path, version: str) -> None:
    """Make the bundle in `project` live."""
    releases = store(project)
    about = {"version": version, "run_id": version, "git_rev": "0" * 40, "by": "benchmark", "why": "benchmark"}
    releases.promote(successor(releases.live(), bundle=releases.put_bundle(project / "artifacts/bundle"), **about))


def store(project: Path) -> Releases:
    return open_store(load_params(project / "params.yaml").store, project)


def judged(project: Path) -> GateVerdict:
    releases, params = store(project), load_params(project / "params.yaml")
    gate = params.gate.model_copy(update={"max_latency_ms": LATENCY})
    return judge_run(project, params.model_copy(update={"gate": gate}), releases, releases.live())


def prepare(folder: Path, file: Path, most: int, source: str) -> Path:
    """`folder`/project with a live champion and a challenger; `folder`/challenger has its files, to start from."""
    project = folder / "project"
    if (folder / "challenger").is_dir():
        return project
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    early, late = divide(file, folder, most, source)
    scratch_project(project, early, SMALL)
    run_stages(project, *STAGES)
    promote(project, "v0.1.0")
    keep(project, folder / "champion")
    add(project, late)
    run_stages(project, *STAGES)
    keep(project, folder / "challenger")
    return project


def keep(project: Path, folder: Path) -> None:
    for name in ("artifacts", "metrics"):
        shutil.copytree(project / name, folder / name)


def put_back(project: Path) -> None:
    for name in ("artifacts", "metrics"):
        shutil.rmtree(project / name)
        shutil.copytree(project.parent / "challenger" / name, project / name)


# --- the files about it -----------------------------------------------------------------------------------------


def champions(project: Path, *names: str) -> None:
    """Files of the champion's run in place of the challenger's."""
    for name in names:
        (project / name).unlink()
        shutil.copy2(project.parent / "champion" / name, project / name)


def change_predictions(change: Callable[[pa.Table, np.ndarray], pa.Table], project: Path) -> None:
    """change: (predictions, whether each answer is right (N,)) -> predictions. Metrics are made to fit them."""
    classes, _ = classes_and_task(project)
    table = pq.read_table(project / PREDICTIONS)

    def answers(part: pa.Table) -> tuple[np.ndarray, np.ndarray]:
        said = np.array(part["probabilities"].to_pylist()).argmax(axis=1)
        return said, pc.index_in(part["label"].combine_chunks(), pa.array(classes)).to_numpy()

    said, truth = answers(table)
    table = change(table, said == truth)
    with atomic_path(project / PREDICTIONS) as temporary:
        pq.write_table(table, temporary)
    said, truth = answers(table.filter(pc.equal(table["split"], "test")))
    metrics = read_json(project / METRICS)
    metrics["test"] |= {
        "accuracy": accuracy(truth, said, len(classes)),
        "balanced_accuracy": balanced_accuracy(truth, said, len(classes)),
    }
    write_json(project / METRICS, metrics)


def _split(table: pa.Table, name: str) -> np.ndarray:
    return np.array(table["split"].to_pylist()) == name


def only_right(split: str, table: pa.Table, right: np.ndarray) -> pa.Table:
    return table.filter(pa.array(right | ~_split(table, split)))


def none_hard(table: pa.Table, right: np.ndarray) -> pa.Table:
    return table.filter(pa.array(~_split(table, "hard")))


def relabelled(split: str, classes: list[str], table: pa.Table, right: np.ndarray) -> pa.Table:
    said = np.array(classes, object)[np.array(table["probabilities"].to_pylist()).argmax(axis=1)]
    labels = np.where(_split(table, split), said, np.array(table["label"].to_pylist(), object))
    return table.set_column(table.schema.get_field_index("label"), "label", pa.array(labels.tolist()))


def other_hard_set(project: Path) -> None:
    """The hard set's rows carry the ids of training images."""
    ids = training_rows(project)["train"]["id"].to_pylist()

    def change(table: pa.Table, right: np.ndarray) -> pa.Table:
        hard = _split(table, "hard")
        named = [ids[row] if hard[row] else one for row, one in enumerate(table["id"].to_pylist())]
        return table.set_column(0, "id", pa.array(named))

    change_predictions(change, project)


def relabel(split: str, project: Path) -> None:
    change_predictions(partial(relabelled, split, classes_and_task(project)[0]), project)


def change_metrics(change: Callable[[dict], None], project: Path) -> None:
    metrics = read_json(project / METRICS)
    change(metrics)
    (project / METRICS).unlink()
    (project / METRICS).write_text(json.dumps(metrics))


def no_number(metrics: dict) -> None:
    metrics["test"]["debiased_ece"] = float("nan")


def as_trained(metrics: dict) -> None:
    """The exported model is as the trained one was: what is wrong was so in training."""
    metrics["parity"]["max_difference"] = 1e-6


def leak(project: Path) -> None:
    """Test images in a new training batch, half of them the same bytes, half saved again as JPEG."""
    from PIL import Image

    promote(project, "v0.2.0")
    late = pq.read_table(project.parent / "late.parquet")
    rows = late.filter(pc.equal(late["split"], "test")).to_pylist()
    for number, row in enumerate(rows):
        row["split"] = "train"
        if number % 2:
            copy = BytesIO()
            Image.open(BytesIO(row["image"]["bytes"])).convert("RGB").save(copy, "JPEG", quality=85)
            row["image"] = {"bytes": copy.getvalue(), "path": f"again-{number}.jpg"}
    file = project.parent / "leaked.parquet"
    pq.write_table(pa.Table.from_pylist(rows, schema=late.schema), file)
    add(project, file)


@dataclass(frozen=True)
class Sabotage:
    """What is done to a promotable challenger, the stages that then run, and what is done to their files."""

    spoil: Callable[[Path], None]
    stages: tuple[str, ...] = ()
    then: Callable[[Path], None] | None = None


def sabotages() -> dict[str, Sabotage]:
    """Name -> sabotage, those of the data last: they cannot be put back."""
    heads = {
        "most frequent class given up": never(0),
        "rarest class given up": never(-1),
        "label columns permuted": roll,
        "two classes swapped": swap,
        "two classes answered as one": lump,
        "random classifier": guess,
        "always the same answer": forget,
        "diverged to NaN": diverge,
    }
    poisons = {
        "one camera broken": broken_camera,
        "one slice worse": broken_slice,
        "hard set worse": wrong_on_hard,
        "60 % of the labels wrong": noisy_labels,
        "trained on four images a class": few_images,
    }
    graphs = {
        "channels swapped (BGR)": gate_graphs.bgr,
        "rows and columns swapped": gate_graphs.transposed,
        "scaled twice": gate_graphs.scaled_twice,
        "underexposed": gate_graphs.underexposed,
        "weights rounded to 3 bits": gate_graphs.rounded,
        "NaN in the exported model": gate_graphs.not_a_number,
        "fails on dark images": gate_graphs.fails_in_the_dark,
        "slow": gate_graphs.slow,
        "too large": gate_graphs.large,
        "exported with probabilities permuted": gate_graphs.permuted,
    }
    exported = {name: Sabotage(partial(gate_graphs.edit, MODEL, change), EXPORTED) for name, change in graphs.items()}
    for name, factor in (("overconfident", 25.0), ("underconfident", 0.02)):
        change = partial(gate_graphs.hotter, factor)
        trained = partial(change_metrics, as_trained)
        exported[name] = Sabotage(partial(gate_graphs.edit, MODEL, change), ("evaluate",), trained)
    files = {
        "metrics of another run": lambda project: champions(project, METRICS),
        "predictions of another run": lambda project: champions(project, PREDICTIONS),
        "NaN in the metrics": partial(change_metrics, no_number),
        "no corruptions measured": partial(change_metrics, lambda metrics: metrics.pop("corruptions")),
        "hard images it has wrong left out": partial(change_predictions, partial(only_right, "hard")),
        "test images it has wrong left out": partial(change_predictions, partial(only_right, "test")),
        "hard set left out": partial(change_predictions, none_hard),
        "hard set swapped": other_hard_set,
        "hard set relabelled by its answers": partial(relabel, "hard"),
        "test set relabelled by its answers": partial(relabel, "test"),
    }
    return (
        {name: Sabotage(partial(change_head, change), EXPORTED) for name, change in heads.items()}
        | {name: Sabotage(partial(refit, poison=poison), RETRAIN) for name, poison in poisons.items()}
        | exported
        | {name: Sabotage(change) for name, change in files.items()}
        | {
            "another model in the bundle": Sabotage(lambda project: champions(project, MODEL), ("bundle",)),
            "the champion's classifier": Sabotage(
                lambda project: champions(project, "artifacts/train_head/head.safetensors"), RETRAIN
            ),
            "test images in training": Sabotage(leak, STAGES),
        }
    )


CONTROLS = {"unspoiled": Sabotage(lambda project: None), "another head, unspoiled": Sabotage(refit, RETRAIN)}


def attempt(project: Path, sabotage: Sabotage) -> dict:
    """{outcome, caught}: the verdict and the names of the checks that failed, or the error of a stage."""
    put_back(project)
    try:
        sabotage.spoil(project)
        run_stages(project, *sabotage.stages)
        if sabotage.then is not None:
            sabotage.then(project)
            run_stages(project, "bundle")
        verdict = judged(project)
    except (EvergreenError, ValueError) as error:
        return {"outcome": "refused", "caught": [f"{type(error).__name__}: {str(error)[:160]}"]}
    caught = [check.name for check in verdict.checks if check.status != "pass"]
    return {"outcome": verdict.outcome, "caught": caught, "sentence": verdict.sentence}


def kept_verdicts(kept: Path, file: Path, most: int, source: str, only: list[str] | None = None) -> dict[str, dict]:
    """Name -> {outcome, caught} of controls and sabotages, those in `kept` first."""
    record = kept / "sabotage.json"
    found = read_json(record) if record.is_file() else {}
    for name, sabotage in (CONTROLS | sabotages()).items():
        if name in found or (only is not None and name not in only):
            continue
        project = prepare(kept / "sabotage", file, most, source)
        found[name] = attempt(project, sabotage)
        write_json(record, found)
        say(f"{name}: {found[name]['outcome']}, {', '.join(found[name]['caught'][:6])}")
    return found
