"""The gate's absolute bounds: what every model must keep, whatever it is compared with."""

import math
from collections.abc import Collection
from typing import Any

from tasks.common.params import GateParams
from tasks.gate.evidence import Evidence, Trial, Unusable
from tasks.gate.verdict import Finding, error, made
from tasks.scoring.skill import Skill, measure_skill

NOTABLE = 0.03  # luck in the calibration error that is worth a word


def absolute_bounds(metrics: dict, live: dict | None, policy: GateParams) -> list[Finding]:
    """Absolute upper bounds that every model must keep; `live`: the champion's metrics, None without one."""
    test = metrics.get("test")
    noise = test.get("ece_noise", 0.0) if isinstance(test, dict) else 0.0  # older metrics have none
    what = "calibration error" if noise < NOTABLE else f"calibration error ({policy.max_ece:g} and luck on few images)"
    bound = math.hypot(policy.max_ece, noise)
    calibration = bound_of(metrics, "test.debiased_ece", bound, what)
    if _by_default(policy, "max_ece") and (live is None or _misses(live, bound, calibration.check.value)):
        calibration = _warned(calibration, "more images, on which probabilities are calibrated")
    return [
        calibration,
        bound_of(metrics, "parity.max_difference", policy.max_parity_difference, "exported against trained model"),
        bound_of(metrics, "latency_ms.p99", policy.max_latency_ms, "ms an image, 99th percentile"),
        bound_of(metrics, "size_mb", policy.max_size_mb, "MB of the exported model"),
    ]


def first_bounds(metrics: dict, policy: GateParams) -> list[Finding]:
    """The user's absolute lower bounds of a model that has no champion to beat."""
    if not policy.first_model:
        raise Unusable("policy", "gate.first_model is empty: a first model would be published unchecked")
    return [bound_of(metrics, path, bound, "first model", upper=False) for path, bound in policy.first_model.items()]


def skilled(evidence: Evidence, classes: list[str], trial: Trial) -> list[Finding]:
    """A first model must be better than chance on both held-out splits.

    The test split decides. The calibration split chose epoch and head, so it flatters the model; where even so it shows
    nothing, the test result was luck.
    """
    findings = [_better_than_chance("test.skill", "test", _test_skill(evidence, classes))]
    if trial.calibration is not None:
        findings.append(_better_than_chance("calibration.skill", "calibration", trial.calibration))
    return findings


def _better_than_chance(name: str, split: str, skill: Skill) -> Finding:
    groups = f" in {skill.groups} groups" if skill.groups < skill.images else ""
    detail = (
        f"balanced accuracy {skill.value:.3f} on {skill.images} {split} images{groups}, "
        f"{100 * skill.confidence:g} % interval {skill.low:.3f} to {skill.high:.3f}; chance is {skill.chance:.3f}"
    )
    effect = "pass" if skill.shown else "reject"
    word = "better than chance" if skill.shown else "not shown to be better than chance"
    figures = {"value": skill.value, "bound": skill.chance, "low": skill.low, "high": skill.high}
    return made(name, effect, f"{word}: {detail}", **figures)


def provisional_floor(evidence: Evidence, classes: list[str], policy: GateParams) -> list[Finding]:
    """Under the default policy, the floor below which a model is provisional."""
    if policy.first_model is not None:
        return []
    skill = _test_skill(evidence, classes)
    if not skill.provisional:
        return [made("test.floor", "pass", "reaches the floor of a first model", value=skill.value, bound=skill.floor)]
    detail = f"provisional: {skill.reason}"
    return [made("test.floor", "provisional", detail, value=skill.value, bound=skill.floor)]


def _test_skill(evidence: Evidence, classes: list[str]) -> Skill:
    test = evidence.sets["test"]
    return measure_skill(evidence.targets[test], evidence.new[test], len(classes), evidence.groups[test])


def corruption_bounds(metrics: dict, policy: GateParams, compared: Collection[str], first: bool) -> list[Finding]:
    """The share of clean accuracy that is kept, for corruptions that could not be compared with a champion."""
    found = metrics.get("corruptions")
    if not isinstance(found, dict):
        return [error("corruptions", "the metrics have no corruptions")]
    kept = [
        bound_of(metrics, f"corruptions.{name}.kept", policy.min_corruption_kept, "share of accuracy kept", upper=False)
        for name in found
        if f"corruptions.{name}.accuracy" not in compared
    ]
    softened = first and _by_default(policy, "min_corruption_kept")
    return [_warned(one, "images taken in such conditions") for one in kept] if softened else kept


def _by_default(policy: GateParams, name: str) -> bool:
    """Whether the bound is Evergreen's own: what the user wrote is never softened."""
    return policy.first_model is None and getattr(policy, name) == GateParams.model_fields[name].default


def _misses(live: dict, bound: float, value: float | None) -> bool:
    """Whether the champion's calibration error is above `bound`, too, and not below the challenger's `value`."""
    test = live.get("test")
    error = test.get("debiased_ece") if isinstance(test, dict) else None
    return isinstance(error, int | float) and value is not None and error >= max(bound, value)


def _warned(finding: Finding, lacking: str) -> Finding:
    """A missed bound as a warning that says what would help; errors and passes stay."""
    check = finding.check
    if check.status != "fail":
        return finding
    detail = f"warning: {check.detail}; label {lacking}, `evergreen ingest FOLDER`, `evergreen retrain`"
    return made(check.name, "warn", detail, value=check.value, bound=check.bound)


def bound_of(metrics: dict, path: str, bound: float, what: str, upper: bool = True) -> Finding:
    """Whether the figure at `path` of the metrics, such as "latency_ms.p99", keeps its bound."""
    value: Any = metrics
    for part in path.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        return error(path, f"{what}: {value!r} in the metrics, expected a number of 0 or more")
    passed = value <= bound if upper else value >= bound
    detail = f"{what}: {value:.4g}, at {'most' if upper else 'least'} {bound:.4g}"
    return made(path, "pass" if passed else "reject", detail, value=value, bound=bound)


def finite(metrics: Any, path: str = "metrics") -> list[Finding]:
    """One error for every NaN or infinity anywhere in the metrics."""
    if isinstance(metrics, dict):
        return [found for key, value in metrics.items() for found in finite(value, f"{path}.{key}")]
    if isinstance(metrics, list | tuple):
        return [found for place, value in enumerate(metrics) for found in finite(value, f"{path}.{place}")]
    if isinstance(metrics, float) and not math.isfinite(metrics):
        return [error(path, f"{metrics} is not a finite number")]
    return []
