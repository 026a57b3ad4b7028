"""Stage `clean`: judge every label by out-of-fold predictions on pretrained features; mend the training split.

Reads artifacts/validate/{accepted.parquet, classes.json}, artifacts/inspect/samples.parquet (near-duplicate
clusters) and the features of `embed`; writes artifacts/clean/{labels.parquet, queue.csv} and metrics/clean.json.
Only training labels change, within bounds; of the other splits suspicious labels are queued for a person.

N samples, K classes, D feature dimensions, F folds.
"""

import csv
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks import label_noise, probe
from tasks.contracts import SPLITS, cleaned_schema
from tasks.embed import pretrained_features
from tasks.errors import StageInputError
from tasks.files import atomic_path, read_json, write_json
from tasks.folds import assign_folds, training_masks
from tasks.label_noise import NoiseModel, fit_noise_model
from tasks.params import CleanParams, DataParams, EmbedParams, ImagesParams
from tasks.probe import Features, Probe
from tasks.targets import class_counts, encode

L2 = 0.1  # strong: a timid probe follows wrong labels less, and the noise model undoes the timidity
FIRST, SECOND = 10, 8  # iterations of the two rounds; more cost time and find no more
LEAST_WEIGHT = 0.05  # of a suspicious sample in the second round: a class must not lose all its samples
ACTIONS = ("keep", "relabel", "drop", "queue")


@dataclass(frozen=True)
class Judgement:
    """What is thought of N given labels. Labels are class numbers (N,), or (N, K) of 0 and 1 for multi-label."""

    predicted: np.ndarray  # most probable label by the image alone
    confidence: np.ndarray  # (N,) P(`predicted` is right | image, given label)
    quality: np.ndarray  # (N,) P(given label is right | image, given label); multi-label: of its most doubtful class

    @property
    def is_issue(self) -> np.ndarray:
        """(N,) bool: more probably wrong than right."""
        return self.quality < 0.5


@dataclass(frozen=True)
class Judge:
    """A probe trained on the training split, and what is known of its label noise: judges samples of any split."""

    probe: Probe
    models: list[NoiseModel]  # one; multi-label: one a class

    def __call__(self, x: Features, y: np.ndarray) -> Judgement:
        return judge_labels(y, self.probe.probabilities(x), self.models)


def judge_labels(y: np.ndarray, probabilities: np.ndarray, models: list[NoiseModel]) -> Judgement:
    """Judge labels `y` by `probabilities` (N, K) of a probe that has not seen them."""
    n = np.arange(len(y))
    if y.ndim == 1:
        posterior = models[0].posterior(y, probabilities)
        predicted = models[0].true_class(probabilities).argmax(axis=1)
        return Judgement(predicted, posterior[n, predicted], posterior[n, y])
    predicted, confidence, quality = np.zeros_like(y), np.ones(len(y)), np.ones(len(y))
    for k, model in enumerate(models):  # each class is a question of its own: present or not
        given, both = y[:, k].astype(int), _absent_present(probabilities[:, k])
        posterior, best = model.posterior(given, both), model.true_class(both).argmax(axis=1)
        predicted[:, k] = best
        confidence = np.minimum(confidence, posterior[n, best])
        quality = np.minimum(quality, posterior[n, given])
    return Judgement(predicted, confidence, quality)


def judge_training(
    x: Features, y: np.ndarray, classes: list[str], groups: np.ndarray, clusters: np.ndarray, folds: int, seed: int
) -> tuple[Judgement, Judge]:
    """Judge the training labels `y` out of fold; and a Judge for other splits. `groups`, `clusters`: (N,) names.

    F + 1 probes, one for each fold held out and one on everything, in two rounds: the second round's weigh each
    label by the first round's trust in it. Raises DataError where the labels cannot be judged.
    """
    members = y[:, None] == np.arange(len(classes)) if y.ndim == 1 else y > 0
    fold = assign_folds(members, groups, folds, seed)
    masks = np.vstack([training_masks(fold, clusters, members, folds), np.ones(len(y))]).astype(np.float32)

    probes = probe.fit_many(x, y, len(classes), masks, l2=L2, iterations=FIRST)
    first = _out_of_fold(probes, x, fold)
    label_noise.check_judgeable(y, first, classes)
    trust = judge_labels(y, first, _noise_models(y, first, first)).quality
    trust = np.maximum(trust, LEAST_WEIGHT).astype(np.float32)

    probes = probe.fit_many(x, y, len(classes), masks * trust, l2=L2, iterations=SECOND, start=probes)
    second = _out_of_fold(probes, x, fold)
    label_noise.check_judgeable(y, second, classes)
    models = _noise_models(y, second, first)
    return judge_labels(y, second, models), Judge(probes[-1], models)


def _out_of_fold(probes: list[Probe], x: Features, fold: np.ndarray) -> np.ndarray:
    logits = probe.select_logits(probes, x, fold)
    return probe.sigmoid(logits) if probes[0].multilabel else probe.softmax(logits)


def _noise_models(y: np.ndarray, probabilities: np.ndarray, as_given: np.ndarray) -> list[NoiseModel]:
    if y.ndim == 1:
        return [fit_noise_model(y, probabilities, as_given)]
    return [
        fit_noise_model(y[:, k].astype(int), _absent_present(probabilities[:, k]), _absent_present(as_given[:, k]))
        for k in range(y.shape[1])
    ]


def _absent_present(probability: np.ndarray) -> np.ndarray:
    """One label's probability (N,) as those of two classes, (N, 2)."""
    return np.stack([1 - probability, probability], axis=1)


def decide(judgement: Judgement, y: np.ndarray, classes: int, policy: CleanParams) -> tuple[np.ndarray, np.ndarray]:
    """(actions, reasons), (N,) each, for training labels `y`; reasons are "" but for queued samples.

    A class of at most `rare_class` samples neither loses nor gains one; of any class at most `max_changed_share` is
    relabelled or dropped, the most suspicious first. What is not done is queued.
    """
    counts = class_counts(y, classes)
    budget = np.floor(counts * policy.max_changed_share).astype(int)
    rare = counts <= policy.rare_class
    actions = np.full(len(y), "keep", dtype="<U7")
    reasons = np.full(len(y), "", dtype="<U10")
    rows = np.flatnonzero(judgement.is_issue)
    for row in rows[np.argsort(judgement.quality[rows], kind="stable")]:
        given, other = _held(y[row]), _held(judgement.predicted[row])
        action = "queue"
        if given != other and other and judgement.confidence[row] >= policy.relabel_confidence:
            action = "relabel"
        elif judgement.quality[row] <= policy.drop_quality:
            action = "drop"
        touched = given | other if action == "relabel" else given
        if any(rare[k] for k in touched):
            action, reasons[row] = "queue", "rare_class"
        elif action == "queue":
            reasons[row] = "unsure"
        elif any(budget[k] == 0 for k in given):
            action, reasons[row] = "queue", "cap"
        else:
            for k in given:
                budget[k] -= 1
        actions[row] = action
    return actions, reasons


def _held(label: np.ndarray) -> set[int]:
    """Class numbers of one label."""
    return {int(label)} if np.ndim(label) == 0 else set(np.flatnonzero(label).tolist())


def run(root: Path, *, data: DataParams, images: ImagesParams, embed: EmbedParams, clean: CleanParams) -> None:
    """Judge all labelled accepted samples and write labels, queue and figures.

    Raises StageInputError for missing input and DataError where the training labels cannot be judged.
    """
    samples, classes = _read(root)
    y = encode(samples.column("label"), classes, data.task)
    split = np.array(samples.column("split").to_pylist())
    train = np.flatnonzero(split == "train")
    if len(train) == 0:
        raise StageInputError("artifacts/validate/accepted.parquet has 0 labelled training samples: nothing to clean")

    def features(rows: np.ndarray) -> Features:
        return pretrained_features(root, samples.take(pa.array(rows)), embed=embed, images=images)

    clusters = np.array(samples.column("cluster").to_pylist())
    groups = np.array(pc.coalesce(samples.column("source"), samples.column("cluster")).to_pylist())
    found, judge = judge_training(
        features(train), y[train], classes, groups[train], clusters[train], clean.folds, clean.seed
    )
    judged = [(train, found)]
    held = np.flatnonzero(split != "train")
    if len(held):
        judged.append((held, judge(features(held), y[held])))
    everything = _together(judged)

    actions = np.full(len(y), "keep", dtype="<U7")
    reasons = np.where(everything.is_issue, "held_out", "").astype("<U10")
    actions[train], reasons[train] = decide(found, y[train], len(classes), clean)
    _write(root, samples, everything, actions, reasons, classes, data.task)
    write_json(root / "metrics" / "clean.json", summary(everything, y, split, actions, classes))
    counts = Counter(actions[train].tolist())
    print("clean: " + ", ".join(f"{counts[action]} {action}" for action in ACTIONS) + f" of {len(train)}")


def _read(root: Path) -> tuple[pa.Table, list[str]]:
    """Labelled accepted samples with their near-duplicate cluster, in canonical order; class names."""
    accepted = root / "artifacts" / "validate" / "accepted.parquet"
    inspected = root / "artifacts" / "inspect" / "samples.parquet"
    names = root / "artifacts" / "validate" / "classes.json"
    for file in (inspected, accepted, names):
        if not file.is_file():
            raise StageInputError(f"{file} is missing: run the stage {file.parent.name} first")
    samples = pq.read_table(accepted, columns=["id", "shard", "row", "split", "label", "source"])
    samples = samples.filter(pc.is_valid(samples.column("label")))
    cluster = dict(zip(*pq.read_table(inspected, columns=["id", "cluster"]).to_pydict().values(), strict=True))
    ids = samples.column("id").to_pylist()
    return samples.append_column("cluster", pa.array([cluster.get(i) or i for i in ids])), read_json(names)


def _together(judged: list[tuple[np.ndarray, Judgement]]) -> Judgement:
    """One Judgement of all rows from those of parts, given as (row numbers, Judgement)."""
    order = np.argsort(np.concatenate([rows for rows, _ in judged]))
    columns = ("predicted", "confidence", "quality")
    return Judgement(*(np.concatenate([getattr(part, column) for _, part in judged])[order] for column in columns))


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
        "estimated_noise": round(float(1 - judgement.quality[train].mean()), 4),
        "held_out_issues": {name: int(judgement.is_issue[split == name].sum()) for name in SPLITS[1:]},
        "classes": per_class,
    }


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
    given = samples.column("label").to_pylist()
    predicted = [_name(label, classes) for label in judgement.predicted]
    used = [p if action == "relabel" else g for g, p, action in zip(given, predicted, actions, strict=True)]
    columns = {
        "id": samples.column("id"),
        "split": samples.column("split"),
        "given": given,
        "label": used,
        "action": actions.tolist(),
        "quality": judgement.quality.astype(np.float32),
        "predicted": predicted,
        "confidence": judgement.confidence.astype(np.float32),
        "is_issue": judgement.is_issue,
    }
    folder = root / "artifacts" / "clean"
    with atomic_path(folder / "labels.parquet") as temporary:
        pq.write_table(pa.table({name: columns[name] for name in schema.names}, schema=schema), temporary)

    ids, splits = columns["id"].to_pylist(), columns["split"].to_pylist()
    rows = sorted(np.flatnonzero(reasons != ""), key=lambda row: (judgement.quality[row], ids[row]))
    with (
        atomic_path(folder / "queue.csv") as temporary,
        open(temporary, "w", newline="", encoding="utf-8") as file,
    ):
        out = csv.writer(file)
        out.writerow(["id", "given", "predicted", "confidence", "quality", "split", "reason"])
        for row in rows:
            figures = [f"{judgement.confidence[row]:.4f}", f"{judgement.quality[row]:.4f}"]
            out.writerow([ids[row], _cell(given[row]), _cell(predicted[row]), *figures, splits[row], reasons[row]])


def _name(label: np.ndarray, classes: list[str]) -> str | list[str]:
    if np.ndim(label) == 0:
        return classes[int(label)]
    return [classes[number] for number in np.flatnonzero(label)]


def _cell(label: str | list[str]) -> str:
    """A label in one CSV cell: a multi-label one as a JSON list."""
    return label if isinstance(label, str) else json.dumps(label, ensure_ascii=False)


if __name__ == "__main__":
    from tasks.stage import main

    main("clean")
