"""The gate: may the challenger replace the champion? One pure function from evidence to a verdict.

K classes. The one rule: **better** on one of the sets named in `superior_on`, **not worse** anywhere else. Intervals
and exact tests of both models' answers to the same images decide (tasks.gate.paired); images of one group or
near-duplicate cluster count once. Let alpha be (1 - confidence) / 2:

- *Better* on a set: the interval of the difference lies above `min_gain`, and equal models show such a gain by luck at
  most alpha of the time. The sets share this alpha (Hochberg, weighted): four fifths are for the set named first, the
  rest for the others. Where every set shows a gain, alpha suffices for each.
- *Worse* on any other set, corruption, class or pool of small classes: the loss is beyond the margin **and** beyond
  luck. A set of `superior_on` is judged in this way, too, once another one shows the gain.
  Many comparisons are made, so two levels are kept apart. A loss that luck gives at most alpha of the time in all m
  comparisons together (Bonferroni) is a finding: reject. A loss that luck gives at most 5 % of the time in this one
  comparison is a suspicion: the challenger is not promoted, but not rejected either (hold).
  Asking each small set to *prove* that its loss is below the margin would refuse every model: 20 images prove nothing.
  So small classes, and small slices, are also judged together, where their losses add up.
- Absolute bounds always hold: calibration (beyond what luck gives on so few images), parity, latency, size. The default
  bounds of calibration and corruptions only warn where nothing better is live: a first model, or a champion that misses
  the bound, too.
- Floors of the user hold for every model (tasks.gate.floors), and the worst source must not be below guessing
  (tasks.gate.sources). On the hard set, image by image, there is no margin.
- A passed comparison says how large a loss the images rule out, or how many more images would (non_inferiority).
- The first model has no champion to beat; it must reach the bounds of `first_model`, if the user wrote any. Otherwise
  it must be better than chance beyond luck, on the test and the calibration split (tasks.scoring.skill), and below a
  floor it is provisional: live, and marked as such until a model that reaches the floor replaces it.
- What cannot be computed is an error, and an error never passes.

The outcome:

- error, broken bound, missed floor, finding of "worse" (on the sets of `superior_on`: any loss beyond luck), class
  given up -> reject
- suspicion of "worse", figure below its floor that luck may explain -> hold
- nothing worse, but better is not shown -> `when_equal`; where that is "promote", the sets of `superior_on` must still
  prove that a loss is below `margin`, else hold
- all pass -> promote
"""

import math
from collections.abc import Collection
from typing import Any, Literal

import numpy as np

from tasks.common.checks import Check
from tasks.common.params import GateParams
from tasks.common.text import join_names
from tasks.gate import comparisons, floors
from tasks.gate.evidence import SOURCE, Contender, Evidence, Trial, Unusable, read
from tasks.gate.looks import Looks, measure_looks
from tasks.gate.non_inferiority import shown_at_most
from tasks.gate.paired import Difference
from tasks.gate.sentence import share_text, verdict_sentence
from tasks.gate.shipped import check_images
from tasks.gate.sources import worst_source
from tasks.gate.verdict import Finding, GateVerdict
from tasks.scoring.metrics import counts, metric_of, one_hot, task_of_targets
from tasks.scoring.skill import Skill, measure_skill

SUSPICION = 0.05  # one-sided level of a loss in one comparison: it can only cost a promotion
FIRST = 0.8  # share of alpha for the first set of `superior_on`
NOTABLE = 0.03  # luck in the calibration error that is worth a word
COLLAPSE = 3  # answers of the champion for a class that the challenger never gives; fewer can be luck


def judge(challenger: Contender, champion: Contender | None, trial: Trial, policy: GateParams) -> GateVerdict:
    """The verdict on `challenger` against `champion`; None: the first model.

    Both models' predictions hold the same images, with columns in the order of `trial.classes`. Corruptions are
    compared where the champion's metrics have them; multi-label needs its `thresholds`. Bad evidence does not raise:
    it becomes an error check, and the outcome is reject.
    """
    metrics, classes = challenger.metrics, trial.classes
    findings = _finite(metrics) + _bounds(metrics, champion.metrics if champion else None, policy)
    findings += [_looks(measure_looks(one, policy.look_margin)) for one in trial.asked]
    better: dict[str, Difference] = {}
    compared: dict[str, tuple[Difference, float]] = {}
    try:
        evidence = read(challenger, champion, trial)
        if trial.samples is not None:
            check_images(challenger.predictions, trial.samples)
        findings += _shipped(trial.shipped, policy)
        findings += _agrees(evidence, classes, metrics, policy)
        findings += _collapse(evidence, classes, policy)
        findings += _hard(evidence, trial)
        findings += _floor(evidence, classes, policy)
        findings += worst_source(evidence, classes, policy)
        reached = floors.states(policy.floors, evidence, classes, policy, trial.costs)
        findings += [floors.finding_of(one, policy) for one in reached]
        if champion is None:
            findings += _skilled(evidence, classes, trial) if policy.first_model is None else _first(metrics, policy)
        else:
            fair = comparisons.without_unfair(evidence, challenger.predictions, trial.unfair)
            better = comparisons.better(fair, classes, policy)
            compared = comparisons.corruptions(metrics, champion.metrics, policy)
            compared |= comparisons.others(fair, classes, policy, trial.train_counts)
            kept = floors.against_champion(policy.floors, fair, classes, policy, trial.costs)
            m = len(better) + len(compared) + len(kept)
            findings += _gains(better, m, policy)
            sources = sum(name.startswith(SOURCE) for name in compared)  # nobody asked for them: they share a level
            for name, (found, margin) in compared.items():
                share = sources if name.startswith(SOURCE) else 1
                findings.append(_not_worse(name, found, margin, m, policy, share))
            findings += [_not_worse(name, found, 0.0, m, policy, len(kept)) for name, found in kept.items()]
        findings += _kept(metrics, policy, compared, first=champion is None)
    except Unusable as unusable:
        example = f", e.g. image {trial.shown(unusable.image)}" if unusable.image else ""
        findings.append(_error(unusable.name, f"{unusable}{example}"))
    outcome = _outcome(findings, policy, better)
    version = champion.name if champion else None
    return GateVerdict(
        outcome=outcome,
        sentence=verdict_sentence(outcome, findings, policy, better, version, trial.hard_set),
        checks=[finding.check for finding in findings],
        challenger=challenger.name,
        champion=version,
        hard_set=trial.hard_set,
        provisional=outcome != "reject" and any(finding.effect == "provisional" for finding in findings),
    )


# --- bounds ----------------------------------------------------------------------------------------------------


def _bounds(metrics: dict, live: dict | None, policy: GateParams) -> list[Finding]:
    """Absolute upper bounds that every model must keep; `live`: the champion's metrics, None without one."""
    test = metrics.get("test")
    noise = test.get("ece_noise", 0.0) if isinstance(test, dict) else 0.0  # older metrics have none
    what = "calibration error" if noise < NOTABLE else f"calibration error ({policy.max_ece:g} and luck on few images)"
    bound = math.hypot(policy.max_ece, noise)
    calibration = _bound(metrics, "test.debiased_ece", bound, what)
    if _by_default(policy, "max_ece") and (live is None or _misses(live, bound, calibration.check.value)):
        calibration = _warned(calibration, "more images, on which probabilities are calibrated")
    return [
        calibration,
        _bound(metrics, "parity.max_difference", policy.max_parity_difference, "exported against trained model"),
        _bound(metrics, "latency_ms.p99", policy.max_latency_ms, "ms an image, 99th percentile"),
        _bound(metrics, "size_mb", policy.max_size_mb, "MB of the exported model"),
    ]


def _first(metrics: dict, policy: GateParams) -> list[Finding]:
    """The user's absolute lower bounds of a model that has no champion to beat."""
    if not policy.first_model:
        raise Unusable("policy", "gate.first_model is empty: a first model would be published unchecked")
    return [_bound(metrics, path, bound, "first model", upper=False) for path, bound in policy.first_model.items()]


def _skilled(evidence: Evidence, classes: list[str], trial: Trial) -> list[Finding]:
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
    return _finding(name, effect, f"{word}: {detail}", **figures)


def _floor(evidence: Evidence, classes: list[str], policy: GateParams) -> list[Finding]:
    """Under the default policy, the floor below which a model is provisional."""
    if policy.first_model is not None:
        return []
    skill = _test_skill(evidence, classes)
    if not skill.provisional:
        return [
            _finding("test.floor", "pass", "reaches the floor of a first model", value=skill.value, bound=skill.floor)
        ]
    detail = f"provisional: {skill.reason}"
    return [_finding("test.floor", "provisional", detail, value=skill.value, bound=skill.floor)]


def _test_skill(evidence: Evidence, classes: list[str]) -> Skill:
    test = evidence.sets["test"]
    return measure_skill(evidence.targets[test], evidence.new[test], len(classes), evidence.groups[test])


def _kept(metrics: dict, policy: GateParams, compared: Collection[str], first: bool) -> list[Finding]:
    """The share of clean accuracy that is kept, for corruptions that could not be compared with a champion."""
    found = metrics.get("corruptions")
    if not isinstance(found, dict):
        return [_error("corruptions", "the metrics have no corruptions")]
    kept = [
        _bound(metrics, f"corruptions.{name}.kept", policy.min_corruption_kept, "share of accuracy kept", upper=False)
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
    return _finding(check.name, "warn", detail, value=check.value, bound=check.bound)


def _bound(metrics: dict, path: str, bound: float, what: str, upper: bool = True) -> Finding:
    value: Any = metrics
    for part in path.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        return _error(path, f"{what}: {value!r} in the metrics, expected a number of 0 or more")
    passed = value <= bound if upper else value >= bound
    detail = f"{what}: {value:.4g}, at {'most' if upper else 'least'} {bound:.4g}"
    return _finding(path, "pass" if passed else "reject", detail, value=value, bound=bound)


def _finite(metrics: Any, path: str = "metrics") -> list[Finding]:
    """One error for every NaN or infinity anywhere in the metrics."""
    if isinstance(metrics, dict):
        return [found for key, value in metrics.items() for found in _finite(value, f"{path}.{key}")]
    if isinstance(metrics, list | tuple):
        return [found for place, value in enumerate(metrics) for found in _finite(value, f"{path}.{place}")]
    if isinstance(metrics, float) and not math.isfinite(metrics):
        return [_error(path, f"{metrics} is not a finite number")]
    return []


# --- the answers themselves ------------------------------------------------------------------------------------


def _agrees(evidence: Evidence, classes: list[str], metrics: dict, policy: GateParams) -> list[Finding]:
    """The metrics must be those of these predictions: otherwise the files of two runs could be mixed."""
    test = evidence.sets["test"]
    found = counts(evidence.targets[test], evidence.new[test], len(classes))
    value = float(metric_of(policy.metric, found, task_of_targets(evidence.targets)))
    test_metrics = metrics.get("test")
    stated = test_metrics.get(policy.metric) if isinstance(test_metrics, dict) else None
    name = f"test.{policy.metric}.recomputed"
    if not isinstance(stated, int | float) or not math.isclose(stated, value, abs_tol=1e-4):
        return [_error(name, f"the metrics say {stated!r}, the predictions give {value:.4f}: run evaluate again")]
    return [_finding(name, "pass", "metrics and predictions agree", value=value)]


def _shipped(difference: float | None, policy: GateParams) -> list[Finding]:
    """The model in the bundle must give the answers that are judged."""
    if difference is None:
        return []
    what = "published model against its predictions"
    if not math.isfinite(difference):
        return [_error("bundle.max_difference", f"{what}: other images or classes, or NaN; run evaluate and bundle")]
    return [
        _bound({"bundle": {"max_difference": difference}}, "bundle.max_difference", policy.max_parity_difference, what)
    ]


def _collapse(evidence: Evidence, classes: list[str], policy: GateParams) -> list[Finding]:
    """A class with test images that the challenger never answers: a failure even where its support proves nothing.

    Given up means that the champion answered it `COLLAPSE` times or more, at least once correctly. For the first
    model it means that the class has enough support to be judged.
    """
    test = evidence.sets["test"]
    truth = one_hot(evidence.targets[test], len(classes))
    support, given = truth.sum(axis=0), one_hot(evidence.new[test], len(classes)).sum(axis=0)
    if evidence.old is None:
        due = support >= policy.min_class_support
    else:
        before = one_hot(evidence.old[test], len(classes))
        due = (before.sum(axis=0) >= COLLAPSE) & (before & truth).any(axis=0)
    lost = np.flatnonzero((support > 0) & (given == 0) & due)
    detail = f"never answered: {join_names([classes[k] for k in lost])}" if len(lost) else "no class is given up"
    return [_finding("class_collapse", "reject" if len(lost) else "pass", detail, value=len(lost), bound=0)]


def _hard(evidence: Evidence, trial: Trial) -> list[Finding]:
    """The hard set must be there if, and only if, its version is given."""
    hard_set = trial.hard_set
    if hard_set is None and "hard" in evidence.sets:
        return [_error("hard_set", "there are predictions of a hard set, but its version is not given")]
    if hard_set is None:
        return [_finding("hard_set", "pass", "no hard set: make one from images that no new model may lose")]
    if "hard" not in evidence.sets:
        return [_error("hard_set", f"there are no predictions of the hard set {hard_set}")]
    hard = evidence.sets["hard"]
    right = comparisons.right(evidence.targets, evidence.new)[hard]
    detail = f"{hard_set}, {len(right)} images, {int(right.sum())} answered correctly"
    detail += f"; {trial.unfair_why}" if trial.unfair_why else ""
    return [_finding("hard_set", "pass", detail, value=float(right.mean()))]


def _looks(looks: Looks) -> Finding:
    """How often a set was asked; too often is said, and forbids nothing."""
    effect = "warn" if looks.missing else "pass"
    name = f"{looks.what.split()[0]}.looks"
    return _finding(name, effect, looks.sentence(), value=looks.used, bound=looks.budget)


# --- against the champion --------------------------------------------------------------------------------------


def _alpha(policy: GateParams, comparisons: int = 1) -> float:
    """Level of a one-sided test that is one of `comparisons`.

    Divided over many comparisons it can fall below the smallest p that the resamples can show, 1 / (resamples + 1).
    That p is then the level: a loss that no resample reached.
    """
    alone = (1 - policy.confidence) / 2
    return min(alone, max(alone / comparisons, 1 / (policy.resamples + 1)))


def _gains(better: dict[str, Difference], m: int, policy: GateParams) -> list[Finding]:
    """One shown gain suffices. The other sets of `superior_on` must then not be worse, like any other set."""
    levels = _levels(better, policy)
    findings = [_superior(f"{name}.{policy.metric}", found, levels[name], m, policy) for name, found in better.items()]
    if all(finding.effect != "pass" for finding in findings):
        return findings
    return [
        _not_worse(finding.check.name, found, policy.margin, m, policy) if finding.effect == "equal" else finding
        for finding, found in zip(findings, better.values(), strict=True)
    ]


def _levels(better: dict[str, Difference], policy: GateParams) -> dict[str, float]:
    """The chance of luck that each set may leave, of alpha together.

    A newest batch is a fraction of the test images: at half of alpha for each, a gain of the same size on all images
    is missed more often than one test on the test images would miss it.
    """
    alone, least = _alpha(policy), 1 / (policy.resamples + 1)
    if len(better) == 1 or all(found.p_better <= alone for found in better.values()):
        return dict.fromkeys(better, alone)
    first, *rest = better
    shares = {first: FIRST} | dict.fromkeys(rest, (1 - FIRST) / len(rest))
    return {name: min(alone, max(alone * share, least)) for name, share in shares.items()}


def _superior(name: str, found: Difference, level: float, m: int, policy: GateParams) -> Finding:
    if not math.isfinite(found.value + found.low):
        return _error(name, f"{policy.metric} is not defined on these {found.n} images")
    if found.low > policy.min_gain and found.p_better <= level:
        return _difference(name, found, policy.min_gain, "pass", "better")
    if found.value < 0 and found.p_worse <= _alpha(policy, m):
        return _difference(name, found, policy.min_gain, "reject", "worse")
    return _difference(name, found, policy.min_gain, "equal", "not shown to be better")


def _not_worse(name: str, found: Difference, margin: float, m: int, policy: GateParams, share: int = 1) -> Finding:
    if not math.isfinite(found.value):
        return _error(name, f"not defined on these {found.n} images")
    if found.value < -margin and found.p_worse <= _alpha(policy, m):
        return _difference(name, found, -margin, "reject", "worse")
    if found.value < -margin and found.p_worse <= SUSPICION / share:
        return _difference(name, found, -margin, "suspect", "perhaps worse")
    passed = _difference(name, found, -margin, "pass", "not worse")
    shown, needs, said = shown_at_most(found, margin, _alpha(policy))
    if not said:
        return passed
    check = passed.check.model_copy(update={"detail": f"{passed.check.detail}; {said}"})
    return Finding(check, "pass", shown, needs)


def _difference(name: str, found: Difference, bound: float, effect: str, word: str) -> Finding:
    among = "" if found.groups is None else f" in {found.groups} groups"
    new, old = abs(found.new), abs(found.old)  # of what is saved: what it costs
    detail = (
        f"{word}: {new:.3f} against {old:.3f} on {found.n} images{among}; by luck a gain like this "
        f"{share_text(found.p_better)}, a loss {share_text(found.p_worse)}"
    )
    if found.gained is not None:
        detail += f"; right only now {found.gained}, only before {found.lost}"
        detail += "" if found.groups else f" (McNemar p {found.mcnemar:.3g})"
    if found.noise is not None:
        detail += f"; equal models, such as two seeds of one recipe, lie within {100 * found.noise:.1f} points"
    low, high = (edge if math.isfinite(edge) else None for edge in (found.low, found.high))
    return _finding(name, effect, detail, value=found.value, bound=bound, low=low, high=high)


# --- verdict ---------------------------------------------------------------------------------------------------


def _outcome(
    findings: list[Finding], policy: GateParams, better: dict[str, Difference]
) -> Literal["promote", "hold", "reject"]:
    effects = {finding.effect for finding in findings}
    if not findings or "reject" in effects:
        return "reject"
    held = not effects.isdisjoint({"suspect", "below"})
    if "equal" not in effects:
        return "hold" if held else "promote"
    proven = all(difference.low > -policy.margin for difference in better.values())
    if policy.when_equal == "promote" and (held or not proven):
        return "hold"
    return policy.when_equal


def _finding(name: str, effect: str, detail: str, **figures: float | None) -> Finding:
    status = "pass" if effect in ("pass", "warn", "provisional") else "fail"
    return Finding(Check(name=name, status=status, detail=detail, **figures), effect)


def _error(name: str, detail: str) -> Finding:
    return Finding(Check(name=name, status="error", detail=detail), "reject")
