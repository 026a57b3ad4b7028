"""Stage `clean`: judges every label by out-of-fold predictions and repairs the training split.

Reads artifacts/validate/network/{accepted.parquet, classes.json, confirmed.parquet, batches.json},
artifacts/inspect/samples.parquet (near-duplicate clusters) and the pretrained features of `embed`. Writes
artifacts/clean/{labels.parquet, queue.csv, new_evidence.json} and metrics/clean.json. Only training labels change,
within bounds, and only where the change is shown to predict held-out labels better (proof.py). Other suspicious labels,
also of the other splits, are queued for a person. Labels that people confirmed stay as they are (confirmed.py).

N samples, K classes, D feature dimensions, F folds.
"""

import csv
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.common import artifacts
from tasks.common.cells import harmless_cell
from tasks.common.errors import StageInputError
from tasks.common.files import atomic_path, read_json, write_json
from tasks.common.params import CleanParams, EmbedParams, ImagesParams
from tasks.common.schemas import SPLITS, cleaned_schema
from tasks.dataset.shards import read_paths
from tasks.models.pretrained import pretrained_features
from tasks.models.standardised import Features
from tasks.scoring.targets import encode
from tasks.stages.clean.confirmed import leave_confirmed, trusted
from tasks.stages.clean.judge import Judged, Judgement, judge_parts, judge_training
from tasks.stages.clean.policy import ACTIONS, Decision, Verdict, decide, judge_gain, queue_all
from tasks.stages.clean.proof import Gain, measure_gain


def run(root: Path, *, images: ImagesParams, embed: EmbedParams, clean: CleanParams) -> None:
    """Judge all labelled accepted samples and write labels, queue and figures.

    Raises StageInputError for missing input and DataError if the training labels cannot be judged.
    """
    samples, classes = _read(root)
    task = "multilabel" if pa.types.is_list(samples.schema.field("label").type) else "multiclass"
    y = encode(samples.column("label"), classes, task)
    split = np.array(samples.column("split").to_pylist())
    train = np.flatnonzero(split == "train")
    if len(train) == 0:
        raise StageInputError("artifacts/validate/accepted.parquet has 0 labelled training samples: nothing to clean")

    def features(rows: np.ndarray) -> Features:
        return pretrained_features(root, samples.take(pa.array(rows)), embed=embed, images=images)

    clusters = numbers(samples["cluster"])
    groups = numbers(pc.coalesce(samples["group"], samples["cluster"]))  # as in tasks.dataset.shards.group_keys
    x = features(train)
    judged = judge_training(x, y[train], classes, groups[train], clusters[train], clean.folds, clean.seed)
    parts = [(train, judged.suspicion)]
    held = np.flatnonzero(split != "train")
    if len(held):
        parts.append((held, judged.judge(features(held), y[held])))
    everything = _in_row_order(parts)
    left, new_evidence = leave_confirmed(root, samples, everything, train, x, y, features)
    everything = trusted(everything, left)
    judged = judged._replace(
        suspicion=trusted(judged.suspicion, left[train]), proven=trusted(judged.proven, left[train])
    )

    decision, gain, verdict = repair(judged, x, y[train], classes, groups[train], clusters[train], clean)
    actions = np.full(len(y), "keep", dtype="<U7")
    reasons = np.where(everything.is_issue, "held_out", "").astype(decision.reasons.dtype)
    actions[train], reasons[train] = decision.actions, decision.reasons
    _write(root, samples, everything, actions, reasons, classes, task)
    figures = summary(everything, y, split, actions, classes) | proof_figures(gain, verdict)
    figures["hard_to_tell"] = int(judged.hard_to_tell.sum())
    figures["confirmed"] = {"left_alone": int(left.sum()), "new_evidence": len(new_evidence)}
    write_json(root / "artifacts" / "clean" / "new_evidence.json", new_evidence)
    figures["sentence"] = sentence(figures)
    write_json(root / "metrics" / "clean.json", figures)
    print(f"clean: {figures['sentence']}")


def repair(
    judged: Judged,
    x: Features,
    y: np.ndarray,
    classes: list[str],
    groups: np.ndarray,
    clusters: np.ndarray,
    policy: CleanParams,
) -> tuple[Decision, Gain | None, Verdict | None]:
    """What is done about training labels `y`, and the measured gain that allows or forbids it.

    Without a gain on held-out labels every repair is queued. No gain and no verdict if there is nothing to repair.
    """

    def on_parts(x: Features, y: np.ndarray, *rest: np.ndarray) -> list[tuple[np.ndarray, np.ndarray] | None]:
        """The labels to train with, and which samples to keep, as this policy repairs each part of the samples."""
        count = y.shape[1] if y.ndim == 2 else int(y.max()) + 1
        names = [str(number) for number in range(count)]
        found = judge_parts(x, y, names, *rest, policy.folds, policy.seed)
        return [one and repaired(one, y[rows], count, policy) for one, rows in zip(found, rest[-1], strict=True)]

    decision = decide(judged, y, len(classes), policy)
    if not decision.changed.any():
        return decision, None, None
    gain = measure_gain(x, y, len(classes), groups, clusters, policy.folds, policy.seed, on_parts)
    verdict = judge_gain(gain)
    return decision if verdict.allowed else queue_all(decision), gain, verdict


def repaired(judged: Judged, y: np.ndarray, classes: int, policy: CleanParams) -> tuple[np.ndarray, np.ndarray]:
    """Labels `y` (N,) or (N, K) as `policy` repairs them, and which samples it keeps, (N,) bool."""
    actions = decide(judged, y, classes, policy).actions
    relabel = (actions == "relabel").reshape(-1, *[1] * (y.ndim - 1))
    return np.where(relabel, judged.suspicion.predicted, y), actions != "drop"


def _read(root: Path) -> tuple[pa.Table, list[str]]:
    """Labelled accepted samples with their near-duplicate cluster, in canonical order; and the class names."""
    accepted, names = (artifacts.network_file(root, name) for name in ("accepted.parquet", "classes.json"))
    inspected = artifacts.stage_output(root / "artifacts" / "inspect" / "samples.parquet", "inspect")
    # pq.read_table imports pyarrow.dataset: 30 MB
    samples = pq.ParquetFile(accepted).read(["id", "shard", "row", "batch", "split", "label", "group"])
    if samples["label"].null_count:
        samples = samples.filter(pc.is_valid(samples.column("label")))
    clusters = pq.ParquetFile(inspected).read(["id", "cluster"])
    cluster = clusters["cluster"]
    if not clusters["id"].equals(samples["id"]):
        cluster = cluster.take(pc.index_in(samples["id"], clusters["id"].combine_chunks()))
    if cluster.null_count:
        cluster = pc.coalesce(cluster, samples["id"])
    return samples.append_column("cluster", cluster), read_json(names)


def numbers(names: pa.ChunkedArray) -> np.ndarray:
    """(N,) the place of each name among the sorted names: as good as the names for comparing and sorting them."""
    codes = names.combine_chunks().dictionary_encode()
    place = np.empty(len(codes.dictionary), np.int64)
    place[pc.sort_indices(codes.dictionary).to_numpy()] = np.arange(len(place))
    return place[codes.indices.to_numpy()]


def _in_row_order(judged: list[tuple[np.ndarray, Judgement]]) -> Judgement:
    """Put Judgements of parts, given as (row numbers, Judgement), together in row order."""
    order = np.argsort(np.concatenate([rows for rows, _ in judged]))
    columns = ("predicted", "confidence", "quality")
    merged = (np.concatenate([getattr(part, column) for _, part in judged])[order] for column in columns)
    return Judgement(*merged, cut=judged[0][1].cut)


def summary(judgement: Judgement, y: np.ndarray, split: np.ndarray, actions: np.ndarray, classes: list[str]) -> dict:
    """Figures for metrics/clean.json."""
    train = split == "train"
    per_class = {}
    for number, name in enumerate(classes):
        here = train & (y == number if y.ndim == 1 else y[:, number] > 0)
        per_class[name] = {
            "given": int(here.sum()),
            "issues": int(judgement.is_issue[here].sum()),
            **{action: int((actions[here] == action).sum()) for action in ACTIONS},
        }
    return {
        "rows": int(train.sum()),
        "issues": int(judgement.is_issue[train].sum()),
        "actions": {action: int((actions[train] == action).sum()) for action in ACTIONS},
        "changed": int(np.isin(actions[train], ("relabel", "drop")).sum()),
        "estimated_noise": round(float(1 - judgement.quality[train].mean()), 4),
        "held_out_issues": {name: int(judgement.is_issue[split == name].sum()) for name in SPLITS[1:]},
        "classes": per_class,
    }


def proof_figures(gain: Gain | None, verdict: Verdict | None) -> dict:
    """The measured gain and what it allowed, for metrics/clean.json; {"proof": None} if nothing was to be repaired."""
    if verdict is None:
        return {"proof": None}
    figures = {} if gain is None else {k: round(v, 4) for k, v in asdict(gain).items()} | {"gain": round(gain.gain, 4)}
    return {"proof": {"allowed": verdict.allowed, "why": verdict.why, **figures}}


def sentence(figures: dict) -> str:
    """What looks wrong, what was changed, and what waits: one sentence from the other figures of metrics/clean.json."""
    changed, proof = figures["changed"], figures["proof"]
    looks = f"{figures['issues'] / figures['rows']:.1%} of the training labels look wrong ({figures['issues']:,})"
    if unclear := figures.get("hard_to_tell"):
        looks += f", {'all' if unclear == figures['issues'] else f'{unclear:,}'} of them perhaps only hard to tell"
    done = f"{changed:,} changed"
    if proof and not proof["allowed"]:
        done += f", because {proof['why']}"
    waiting = figures["actions"]["queue"] + sum(figures["held_out_issues"].values())
    return f"{looks}; {done}; {waiting:,} wait in the queue"


def _write(
    root: Path,
    samples: pa.Table,
    judgement: Judgement,
    actions: np.ndarray,
    reasons: np.ndarray,
    classes: list[str],
    task: str,
) -> None:
    schema = cleaned_schema(task)
    given = samples.column("label")
    predicted = _names(judgement.predicted, classes, given.type)
    relabel = actions == "relabel"
    either = pa.chunked_array([*given.chunks, predicted])  # in Arrow: as Python objects labels take ten times as much
    columns = {
        "id": samples.column("id"),
        "split": samples.column("split"),
        "given": given,
        "label": either.take(pa.array(np.arange(len(given)) + np.where(relabel, len(given), 0))),
        "action": pa.array(actions),
        "quality": judgement.quality.astype(np.float32),
        "predicted": predicted,
        "confidence": judgement.confidence.astype(np.float32),
        "is_issue": judgement.is_issue,
    }
    table = pa.table({name: columns[name] for name in schema.names}, schema=schema)
    folder = root / "artifacts" / "clean"
    with atomic_path(folder / "labels.parquet") as temporary:
        pq.write_table(table, temporary)

    rows = np.flatnonzero(reasons != "")
    ids = table["id"].take(pa.array(rows)).to_pylist()
    rows = rows[sorted(range(len(rows)), key=lambda place: (judgement.quality[rows[place]], ids[place]))]
    shown = table.take(pa.array(rows, pa.int64())).select(["id", "given", "predicted", "split"]).to_pylist()
    with (
        atomic_path(folder / "queue.csv") as temporary,
        open(temporary, "w", newline="", encoding="utf-8") as file,
    ):
        out = csv.writer(file)
        out.writerow(["id", "given", "predicted", "confidence", "quality", "split", "reason", "path"])
        for row, one, path in zip(rows, shown, _paths(root, samples, rows), strict=True):
            figures = [f"{judgement.confidence[row]:.4f}", f"{judgement.quality[row]:.4f}"]
            labels = [_cell(one["given"]), _cell(one["predicted"])]
            out.writerow([one["id"], *labels, *figures, one["split"], reasons[row], harmless_cell(path or "")])


def _paths(root: Path, samples: pa.Table, rows: np.ndarray) -> list[str | None]:
    shown = samples.select(["shard", "row"]).take(pa.array(rows, pa.int64()))
    return read_paths(root / "data", shown["shard"].to_pylist(), shown["row"].to_pylist())


def _names(labels: np.ndarray, classes: list[str], kind: pa.DataType) -> pa.Array:
    """Labels (N,) or (N, K) as names, an array of the type `kind`."""
    if labels.ndim == 1:
        return pa.array(classes, kind).take(pa.array(labels.astype(np.int64)))
    return pa.array([[classes[number] for number in np.flatnonzero(label)] for label in labels], kind)


def _cell(label: str | list[str]) -> str:
    """A label in one CSV cell: a multi-label one as a JSON list."""
    return label if isinstance(label, str) else json.dumps(label, ensure_ascii=False)
