"""A model's metrics as JSON: overall, by class, by number of training images of a class, by slice.

N images, K classes. Shares are 0..1, rounded to 6 digits. What is undefined (the recall of a class without images) is
None, never NaN. Shapes of targets, predicted and probabilities as in tasks.scoring.metrics.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from tasks.inference import conformal
from tasks.inference.temperature import probabilities as probabilities_of
from tasks.inference.thresholds import Rule, answers, confidence
from tasks.scoring import agreement, metrics, selective

SHOTS = ("many", "medium", "few")
TOP = 5  # classes of the top-k accuracy
WANTED = (0.9, 0.95, 0.99)  # accuracies of what is answered without people


class Results(NamedTuple):
    """A model's answers to labelled images, and what they are judged by."""

    classes: list[str]
    task: str
    rule: Rule
    targets: np.ndarray  # (N,) or (N, K)
    probabilities: np.ndarray  # (N, K)
    predicted: np.ndarray  # (N,) or (N, K) bool

    @property
    def right(self) -> np.ndarray:
        """(N,) bool: every label of the answer is right."""
        same = self.predicted == self.targets
        return same if same.ndim == 1 else same.all(axis=1)

    def part(self, rows: np.ndarray) -> "Results":
        """The results of some rows: indices or a mask."""
        return self._replace(
            targets=self.targets[rows], probabilities=self.probabilities[rows], predicted=self.predicted[rows]
        )


def tidy(value: Any) -> Any:
    """`value` for JSON: no NumPy types, 6 digits, NaN as None. Infinity stays, and writing JSON refuses it."""
    if isinstance(value, dict):
        return {key: tidy(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [tidy(inner) for inner in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return None if math.isnan(value) else round(value, 6)
    return value


def overall(targets: np.ndarray, probabilities: np.ndarray, rule: Rule) -> dict:
    """Every headline metric of N > 0 images."""
    classes = probabilities.shape[1]
    predicted = answers(probabilities, rule)
    bins = calibration_bins(len(targets))
    found = brief(targets, predicted, classes) | {
        "average_precision": metrics.mean_average_precision(targets, probabilities),
        "ece": metrics.ece(probabilities, targets),
        "adaptive_ece": metrics.adaptive_ece(probabilities, targets),
        "debiased_ece": metrics.debiased_ece(probabilities, targets, bins) if len(targets) > 1 else None,
        "brier": metrics.brier(probabilities, targets),
        "log_loss": metrics.log_loss(probabilities, targets),
    }
    if rule.task == "multilabel":
        found["micro_f1"] = metrics.micro_f1(targets, predicted, classes)
    return tidy(found)


def beyond_right(results: Results, costs: Mapping[str, float]) -> dict:
    """Figures of N > 0 images beyond right and wrong: ROC area, kappa, top-5, order of confidence, cost.

    costs: class -> cost of missing it, 1 for the others; {}: mistakes have no cost of their own.
    """
    sure = confidence(results.probabilities, results.rule)
    areas = agreement.roc_area(results.targets, results.probabilities)
    found = {
        "auc": float(np.mean(areas[~np.isnan(areas)])) if not np.isnan(areas).all() else None,
        "aurc": selective.area_over_curve(results.right, sure),
    }
    if results.task == "multiclass":
        found["kappa"] = agreement.kappa(results.targets, results.predicted, len(results.classes))
        if len(results.classes) > TOP:
            found["top5"] = agreement.top_k(results.targets, results.probabilities, TOP)
    if costs:
        weights = np.array([costs.get(name, 1.0) for name in results.classes])
        found["cost"] = agreement.mean_cost(results.targets, results.predicted, weights)
    return tidy(found)


def by_people(results: Results, groups: Sequence[str | None]) -> dict[str, dict]:
    """Share of N > 0 images that people must see for the rest to be as right as each of WANTED, with its interval."""
    sure = confidence(results.probabilities, results.rule)
    found = selective.to_people(results.right, sure, WANTED, groups)
    return {f"at_{round(100 * wanted)}": tidy(one._asdict()) for wanted, one in zip(WANTED, found, strict=True)}


def uncalibrated(logits: np.ndarray, targets: np.ndarray) -> dict:
    """What the test images say of the probabilities before calibration: two figures and the reliability diagram."""
    p = probabilities_of(logits, 1.0, metrics.task_of_targets(targets))
    bins = calibration_bins(len(targets))
    return tidy(
        {
            "debiased_ece": metrics.debiased_ece(p, targets, bins) if len(targets) > 1 else None,
            "log_loss": metrics.log_loss(p, targets),
            "reliability": metrics.reliability(p, targets)._asdict(),
        }
    )


def calibration_bins(images: int) -> int:
    """Bins of the debiased calibration error: two events per bin, because it subtracts a variance."""
    return min(15, max(1, images // 2))


def brief(targets: np.ndarray, predicted: np.ndarray, classes: int) -> dict:
    """Number of images and the three metrics a gate can use."""
    return tidy(
        {
            "n": len(targets),
            "accuracy": metrics.accuracy(targets, predicted, classes),
            "balanced_accuracy": metrics.balanced_accuracy(targets, predicted, classes),
            "macro_f1": metrics.macro_f1(targets, predicted, classes),
        }
    )


def shot(train_images: int, many: int, few: int) -> str:
    """ "many", "medium" or "few", by evaluate.many_shot and few_shot."""
    return "many" if train_images > many else "few" if train_images < few else "medium"


def by_class(
    targets: np.ndarray,
    predicted: np.ndarray,
    probabilities: np.ndarray,
    classes: Sequence[str],
    train_counts: Sequence[int],
    many: int,
    few: int,
) -> list[dict]:
    """One row per class, in class order."""
    found = metrics.per_class(targets, predicted, len(classes))
    found["average_precision"] = metrics.average_precision(targets, probabilities)
    found["auc"] = agreement.roc_area(targets, probabilities)
    rows = []
    for k, name in enumerate(classes):
        row = {"class": name, "train": int(train_counts[k]), "shot": shot(train_counts[k], many, few)}
        rows.append(row | {key: values[k] for key, values in found.items()})
    return tidy(rows)


def by_shot(rows: list[dict]) -> dict[str, dict | None]:
    """Mean recall of the many-, medium- and few-shot classes that have test images; rows: of `by_class`."""
    found = {}
    for name in SHOTS:
        recall = [row["recall"] for row in rows if row["shot"] == name and row["recall"] is not None]
        found[name] = {"classes": len(recall), "recall": float(np.mean(recall))} if recall else None
    return tidy(found)


def by_sets(results: Results, about: dict, rows: list[dict]) -> tuple[dict, list[dict]]:
    """(figures of the sets of plausible classes on N > 0 images, `rows` of `by_class` with those of each class).

    about: `conformal` of calibration.json. `set_length` of a class is that of its own images' sets.
    """
    bounds = np.array([about["bounds"][name] for name in results.classes])
    found = conformal.measure(conformal.plausible(results.probabilities, results.predicted, bounds), results.targets)
    per_class = zip(rows, found.coverage, found.length, strict=True)
    rows = [row | tidy({"coverage": share, "set_length": length}) for row, share, length in per_class]
    shots = {}
    for name in SHOTS:
        of_shot = [row for row in rows if row["shot"] == name and row["coverage"] is not None]
        means = {key: float(np.mean([row[key] for row in of_shot])) for key in ("coverage", "set_length") if of_shot}
        shots[name] = {"classes": len(of_shot)} | means if of_shot else None
    there = [row["coverage"] for row in rows if row["coverage"] is not None]
    overall = {
        "wanted": about["coverage"],
        "covered": found.covered,
        "class_coverage": float(np.mean(there)) if there else None,
        "set_length": found.mean_length,
        "single": found.single,
        "shots": shots,
    }
    return tidy(overall), rows


def by_slice(slices: Sequence[Sequence[dict] | None], targets: np.ndarray, predicted: np.ndarray, classes: int) -> dict:
    """`brief` of each "name=value"; slices: N lists of {name, value}, or None."""
    members: dict[str, list[int]] = {}
    for row, entries in enumerate(slices):
        for entry in entries or ():
            members.setdefault(f"{entry['name']}={entry['value']}", []).append(row)
    return {name: brief(targets[rows], predicted[rows], classes) for name, rows in sorted(members.items())}
