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
from collections.abc import Mapping
from typing import Literal

import numpy as np

from tasks.common.params import GateParams
from tasks.common.text import join_names, one_line
from tasks.gate import comparisons, floors
from tasks.gate.against import gains, not_worse
from tasks.gate.bounds import (
    absolute_bounds,
    bound_of,
    corruption_bounds,
    finite,
    first_bounds,
    provisional_floor,
    skilled,
)
from tasks.gate.evidence import SOURCE, Contender, Evidence, Trial, Unusable, read
from tasks.gate.floors_kept import against_champion
from tasks.gate.looks import Looks, measure_looks
from tasks.gate.paired import Difference
from tasks.gate.sentence import verdict_sentence
from tasks.gate.shipped import check_images
from tasks.gate.sources import worst_source
from tasks.gate.verdict import Finding, GateVerdict, error, made
from tasks.scoring.metrics import counts, metric_of, one_hot, task_of_targets

COLLAPSE = 3  # answers of the champion for a class that the challenger never gives; fewer can be luck


def judge(challenger: Contender, champion: Contender | None, trial: Trial, policy: GateParams) -> GateVerdict:
    """The verdict on `challenger` against `champion`; None: the first model.

    Both models' predictions hold the same images, with columns in the order of `trial.classes`. Corruptions are
    compared where the champion's metrics have them; multi-label needs its `thresholds`. Bad evidence does not raise:
    it becomes an error check, and the outcome is reject.
    """
    metrics, classes = challenger.metrics, trial.classes
    findings = finite(metrics) + absolute_bounds(metrics, champion.metrics if champion else None, policy)
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
        findings += provisional_floor(evidence, classes, policy)
        findings += worst_source(evidence, classes, policy)
        reached = floors.states(policy.floors, evidence, classes, policy, trial.costs)
        findings += [floors.finding_of(one, policy) for one in reached]
        if champion is None:
            findings += (
                skilled(evidence, classes, trial) if policy.first_model is None else first_bounds(metrics, policy)
            )
        else:
            fair = comparisons.without_unfair(evidence, trial.unfair)
            better = comparisons.better(fair, classes, policy)
            compared = comparisons.corruptions(metrics, champion.metrics, policy)
            compared |= comparisons.others(fair, classes, policy, trial.train_counts)
            kept = against_champion(policy.floors, fair, classes, policy, trial.costs)
            m = len(better) + len(compared) + len(kept)
            findings += gains(better, m, policy)
            sources = sum(name.startswith(SOURCE) for name in compared)  # nobody asked for them: they share a level
            for name, (found, margin) in compared.items():
                share = sources if name.startswith(SOURCE) else 1
                findings.append(not_worse(name, found, margin, m, policy, share))
            findings += [not_worse(name, found, 0.0, m, policy, len(kept)) for name, found in kept.items()]
        findings += corruption_bounds(metrics, policy, compared, first=champion is None)
    except Unusable as unusable:
        example = f", e.g. image {trial.shown(unusable.image)}" if unusable.image else ""
        findings.append(error(unusable.name, f"{unusable}{example}"))
    outcome = _outcome(findings, policy, better)
    version = champion.name if champion else None
    return GateVerdict(
        outcome=outcome,
        sentence=verdict_sentence(
            outcome, findings, policy, better, version, trial.hard_set, _later(metrics), _seeds(trial.seeds)
        ),
        checks=[finding.check for finding in findings],
        challenger=challenger.name,
        champion=version,
        hard_set=trial.hard_set,
        provisional=outcome != "reject" and any(finding.effect == "provisional" for finding in findings),
    )


def _later(metrics: dict) -> str:
    """What the metrics say of a test that is later than all training (data.split.by: time); "" where it is not."""
    later = metrics.get("later")
    return one_line(str(later.get("sentence", "")), 200) if isinstance(later, dict) and later.get("all_later") else ""


def _seeds(seeds: Mapping | None) -> str:
    """How far trainings of this recipe lie apart that differ in their seed alone; "" for a single one."""
    spread = seeds.get("spread") if seeds else None
    if spread is None:
        return ""
    return (
        f"seed noise: the calibration scores of {len(seeds['scores'])} trainings that differ only in their seed lie "
        f"{100 * spread:.1f} points apart (standard deviation)"
    )


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
        return [error(name, f"the metrics say {stated!r}, the predictions give {value:.4f}: run evaluate again")]
    return [made(name, "pass", "metrics and predictions agree", value=value)]


def _shipped(difference: float | None, policy: GateParams) -> list[Finding]:
    """The model in the bundle must give the answers that are judged."""
    if difference is None:
        return []
    what = "published model against its predictions"
    if not math.isfinite(difference):
        return [error("bundle.max_difference", f"{what}: other images or classes, or NaN; run evaluate and bundle")]
    return [
        bound_of(
            {"bundle": {"max_difference": difference}}, "bundle.max_difference", policy.max_parity_difference, what
        )
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
    return [made("class_collapse", "reject" if len(lost) else "pass", detail, value=len(lost), bound=0)]


def _hard(evidence: Evidence, trial: Trial) -> list[Finding]:
    """The hard set must be there if, and only if, its version is given."""
    hard_set = trial.hard_set
    if hard_set is None and "hard" in evidence.sets:
        return [error("hard_set", "there are predictions of a hard set, but its version is not given")]
    if hard_set is None:
        return [made("hard_set", "pass", "no hard set: make one from images that no new model may lose")]
    if "hard" not in evidence.sets:
        return [error("hard_set", f"there are no predictions of the hard set {hard_set}")]
    hard = evidence.sets["hard"]
    right = comparisons.right(evidence.targets, evidence.new)[hard]
    detail = f"{hard_set}, {len(right)} image{'s' * (len(right) != 1)}, {int(right.sum())} answered correctly"
    detail += f"; {trial.unfair_why}" if trial.unfair_why else ""
    return [made("hard_set", "pass", detail, value=float(right.mean()))]


def _looks(looks: Looks) -> Finding:
    """How often a set was asked; too often is said, and forbids nothing."""
    effect = "warn" if looks.missing else "pass"
    name = f"{looks.what.split()[0]}.looks"
    return made(name, effect, looks.sentence(), value=looks.used, bound=looks.budget)


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
