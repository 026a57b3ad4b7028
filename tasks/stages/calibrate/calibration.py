"""Fit and write what turns logits into answers: temperature, thresholds, sets, unfamiliar images.

Works on logits and features alone, so that `calibrate` and `tasks.adopt` share it whatever the model is.
N calibration images, K classes, D feature dimensions, M training images.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from tasks.common.files import atomic_path, write_json
from tasks.common.params import CalibrateParams
from tasks.inference import coarse, conformal, thresholds
from tasks.inference.onnx_model import OnnxModel
from tasks.inference.ood import scores as ood
from tasks.inference.scaling import Scaling, read_scaling, scale, to_json
from tasks.inference.temperature import probabilities
from tasks.inference.thresholds import Rule
from tasks.scoring import metrics
from tasks.scoring.skill import measure_skill
from tasks.stages.calibrate.fitting import choose_scaling
from tasks.stages.calibrate.unfamiliar import FittedScore

FOLDER = Path("artifacts/calibrate")
SKILL_CONFIDENCE = 0.8  # the test split decides at 0.95; here a first model only must not look like chance
PARITY_IMAGES = 32  # real images on which the exported model is compared with the trained one


@dataclass(frozen=True)
class HeldOut:
    """What a model makes of the calibration split, and the labels there."""

    classes: list[str]
    task: str
    targets: np.ndarray  # of targets.encode
    logits: np.ndarray  # (N, K), temperature 1
    features: np.ndarray  # (N, D)
    groups: Sequence[str | None]  # (N,) names, of tasks.scoring.groups
    hierarchy: Mapping[str, Sequence[str]] = field(default_factory=dict)  # parent -> its children among `classes`


@dataclass(frozen=True)
class Calibration:
    """A fitted calibration, before the model is exported."""

    about: dict  # calibration.json without `ood`
    measured: dict  # metrics/calibrate.json without what only the exported model can tell


def fit_calibration(held_out: HeldOut, params: CalibrateParams) -> Calibration:
    """Fit all but the out-of-distribution score on the calibration split.

    Raises ParamsError for the cost of an unknown class, DataError for logits that are not finite.
    """
    classes, task, targets, logits = held_out.classes, held_out.task, held_out.targets, held_out.logits
    choice = choose_scaling(logits, targets, held_out.groups, params.method)
    scaling = choice.scaling
    calibrated = scale(logits, scaling, task)
    costs = params.cost_false_negative
    if task == "multiclass":
        weights = thresholds.cost_weights(classes, costs) * scaling.undo(len(classes))
        rule = Rule(task, thresholds.multiclass(classes, costs), weights)
    else:
        rule = Rule(task, thresholds.multilabel(calibrated, targets, classes, costs), np.ones(len(classes)))
    before = probabilities(logits, 1.0, task)
    given, sure = thresholds.answers(calibrated, rule), thresholds.sure(calibrated, rule)
    hierarchy = {}
    if held_out.hierarchy and task == "multiclass":
        members = coarse.membership(held_out.hierarchy, classes)
        bound = coarse.fit_threshold(calibrated, targets, given, sure, members)
        hierarchy = {
            "groups": {parent: list(names) for parent, names in held_out.hierarchy.items()},
            "threshold": bound,
        }
    sets, measured_sets = _plausible(calibrated, targets, given, classes, params.coverage)
    skill = measure_skill(targets, given, len(classes), held_out.groups, SKILL_CONFIDENCE)
    measured = {
        "images": len(targets),
        "skill": asdict(skill),
        "temperature": scaling.temperature,
        "scaling": {"method": scaling.method, "held_out_log_loss": choice.losses, "why": choice.why},
        "log_loss_before": metrics.log_loss(before, targets),
        "log_loss_after": metrics.log_loss(calibrated, targets),
        "ece_before": metrics.ece(before, targets),
        "ece_after": metrics.ece(calibrated, targets),
        "thresholds": {"lowest": float(rule.thresholds.min()), "highest": float(rule.thresholds.max())},
        "to_review": float(1 - sure.mean()),
    }
    if sets:
        measured["conformal"] = measured_sets
    about = {
        "task": task,
        "classes": classes,
        "temperature": scaling.temperature,
        "scaling": to_json(scaling, classes),
        "thresholds": dict(zip(classes, rule.thresholds.tolist(), strict=True)),
        "weights": dict(zip(classes, rule.weights.tolist(), strict=True)),
        "conformal": sets,
        "costs": params.cost_false_negative,
    }
    if hierarchy:
        about["hierarchy"] = hierarchy
        said = coarse.answers(calibrated, sure, hierarchy["groups"], classes, hierarchy["threshold"])
        measured["coarse"] = {"threshold": hierarchy["threshold"], "answered": sum(name is not None for name in said)}
    return Calibration(about, measured)


def _plausible(
    calibrated: np.ndarray, targets: np.ndarray, given: np.ndarray, classes: Sequence[str], coverage: float | None
) -> tuple[dict | None, dict]:
    """(`conformal` of calibration.json, what is measured of it) for the wanted coverage; (None, {}) for none."""
    if coverage is None:
        return None, {}
    bounds = conformal.fit(calibrated, targets, coverage)
    found = conformal.measure(conformal.plausible(calibrated, given, bounds.values), targets)
    about = {"coverage": coverage, "bounds": dict(zip(classes, bounds.values.tolist(), strict=True))}
    few = [name for name, own in zip(classes, bounds.own, strict=True) if not own]
    return about | {"too_few": few}, {"coverage": coverage, "set_length": found.mean_length, "too_few": len(few)}


def training_samples(train: pa.Table, rows: int) -> pa.Table:
    """At most `rows` samples to which the score of unfamiliar images compares: as many of each class as there are."""
    labels = train["label"].to_pylist()
    strata = np.array([value if isinstance(value, str) else "\n".join(sorted(value)) for value in labels])
    return train.take(ood.bank_rows(strata, rows))


def write_calibration(
    root: Path,
    fitted: Calibration,
    export: Callable[[Path, Scaling], float],
    score_of: Callable[[OnnxModel], FittedScore],
) -> dict:
    """Write artifacts/calibrate/ and metrics/calibrate.json under `root`; returns calibration.json.

    export: (model.onnx, scaling) -> writes that file and returns its difference from the trained model.
    score_of: the out-of-distribution score of the exported model, see tasks.stages.calibrate.unfamiliar.
    """
    from safetensors.numpy import save_file

    folder = root / FOLDER
    parity = export(folder / "model.onnx", read_scaling(fitted.about))
    unfamiliar = score_of(OnnxModel(folder / "model.onnx"))
    with atomic_path(folder / "ood.safetensors") as temporary:
        save_file(unfamiliar.tensors, temporary)
    about = {**fitted.about, "ood": unfamiliar.about}
    write_json(folder / "calibration.json", about)
    write_json(root / "metrics/calibrate.json", {**fitted.measured, "ood": unfamiliar.measured, "parity": parity})
    return about
