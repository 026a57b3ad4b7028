"""Figures of the release report: those its bootstrap draws, sets of classes, unfamiliar images."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tasks.common.files import read_json
from tasks.inference.thresholds import confidence
from tasks.scoring import agreement, metrics, selective
from tasks.stages.evaluate.figures import TOP, Results, calibration_bins

LARGE = 30_000  # probabilities; the ROC area of more takes too long to be drawn again and again


class Measure(NamedTuple):
    """One figure of a model's answers."""

    name: str
    of: Callable[[Results], float]
    higher_is_better: bool = True
    share: bool = True  # from 0 to 1: shown as points of 100
    drawn: bool = True  # its interval is bootstrapped


def measures(results: Results, costs: Mapping[str, float]) -> list[Measure]:
    """What is measured of the N images of `results`. costs: class -> cost of missing it; {}: none."""
    bins = calibration_bins(len(results.targets))
    found = [
        Measure("calibration error", lambda one: metrics.debiased_ece(one.probabilities, one.targets, bins), False),
        Measure("log loss", lambda one: metrics.log_loss(one.probabilities, one.targets), False, False),
    ]
    if results.task == "multiclass":
        kappa = Measure("Cohen's kappa", lambda one: agreement.kappa(one.targets, one.predicted, len(one.classes)))
        found.append(kappa._replace(share=False))
        if len(results.classes) > TOP:
            found.append(
                Measure(f"among the {TOP} likeliest", lambda one: agreement.top_k(one.targets, one.probabilities, TOP))
            )
    found.append(Measure("ROC area, mean of classes", _mean_area, drawn=results.probabilities.size <= LARGE))
    found.append(Measure("mistakes by order of confidence (AURC)", _area_over_curve, False))
    if costs:
        weights = np.array([costs.get(name, 1.0) for name in results.classes])
        of_cost = Measure("mean cost", lambda one: agreement.mean_cost(one.targets, one.predicted, weights), False)
        found.append(of_cost._replace(share=False))
    return found


def _mean_area(results: Results) -> float:
    areas = agreement.roc_area(results.targets, results.probabilities)
    there = areas[~np.isnan(areas)]
    return float(there.mean()) if len(there) else float("nan")


def _area_over_curve(results: Results) -> float:
    return selective.area_over_curve(results.right, confidence(results.probabilities, results.rule))


def unfamiliar(about: dict) -> dict | None:
    """The score that flags unfamiliar images, beside those it was chosen from; None for a model of before."""
    found = about["metrics"].get("calibrate", {}).get("ood", {})
    if "scores" not in found:
        return None
    scores = [{"name": name, "chosen": name == found["method"], **one} for name, one in found["scores"].items()]
    return {key: found[key] for key in ("method", "sentence", "false_rejection")} | {"scores": scores}


def plausible(root: Path, evaluated: dict) -> dict | None:
    """`conformal` of metrics/evaluate.json with its classes, the lowest coverage first; None: the model has no sets."""
    if not evaluated.get("conformal"):
        return None
    rows = read_json(root / "artifacts/evaluate/report.json")["classes"]
    there = [row for row in rows if row.get("coverage") is not None]
    kept = ("class", "shot", "support", "coverage", "set_length")
    ordered = sorted(there, key=lambda row: (row["coverage"], row["class"]))
    return evaluated["conformal"] | {"classes": [{key: row[key] for key in kept} for row in ordered]}
