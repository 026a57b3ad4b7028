"""The decision about a rollout: wait, next step, promote, roll back, or leave it to a person. Pure.

Every check is an e-value (`monitoring.sequential`), so looking after each request costs nothing. Each gets a part of
release.false_rollback_rate; those of classes share theirs. By the union bound, a whole rollout of an equally good model
is rolled back with at most that chance.

    class.<name>.share      the challenger answers the class less than half as often as the champion
    class.<name>.accuracy   on labelled images of the class, it is wrong more often
    accuracy                on all labelled images, it is wrong more often
    review                  it asks for review more than twice as often, and 5 points more
    errors                  it fails more often than the champion by more than release.max_error_rate
    starts                  no process of the service can compute with it
    latency                 over half of its answers take longer than release.max_latency_ratio times the champion's
"""

from collections import Counter
from math import exp, log
from typing import Literal

from flows.rollout.evidence import Arm, Evidence, Labelled, Pairs, StepEvidence
from monitoring.sequential import (
    commoner,
    exceeds,
    more_wrong,
    paired_commoner,
    paired_rarer,
    rarer,
)
from tasks.common.checks import Check, Frozen
from tasks.common.params import ReleaseParams
from tasks.releases.rollout import Rollout
from tasks.scoring import intervals

PARTS = {"share": 0.3, "class": 0.25, "accuracy": 0.25, "review": 0.1, "errors": 0.05, "latency": 0.05}
STARTS = "starts"
COLLAPSED = 0.5  # of the champion's share of a class
MORE_REVIEW, REVIEW_POINTS = 2.0, 0.05
Z = 1.96  # of the intervals that are shown; they decide nothing

Outcome = Literal["wait", "advance", "promote", "roll_back", "give_up"]


class Decision(Frozen):
    """What to do, in one sentence, with every check."""

    outcome: Outcome
    sentence: str
    checks: tuple[Check, ...] = ()


def decide(rollout: Rollout, evidence: Evidence, policy: ReleaseParams) -> Decision:
    """What `evidence` says about `rollout`."""
    checks = tuple(_checks(rollout, evidence, policy))
    failed = [check for check in checks if check.status == "fail"]
    if failed and failed[0].name == STARTS:
        return Decision(outcome="roll_back", sentence=failed[0].detail, checks=checks)
    if failed:
        said = "; ".join(check.detail for check in failed[:3])
        more = f"; and {len(failed) - 3} more" if len(failed) > 3 else ""
        return Decision(
            outcome="roll_back", sentence=f"{rollout.version} is worse in production: {said}{more}", checks=checks
        )
    n, wanted = evidence.requests, policy.min_requests
    so_far = f"{n:,} of {wanted:,} requests, {evidence.hours:.1f} of {policy.min_hours:g} hours"
    if n < wanted or evidence.hours < policy.min_hours:
        if evidence.hours > policy.max_hours:
            said = f"{rollout.version} got {n:,} of {wanted:,} requests in {evidence.hours:.0f} hours"
            return Decision(outcome="give_up", sentence=f"{said}: too few to decide", checks=checks)
        return Decision(outcome="wait", sentence=f"{rollout.sentence()}: {so_far}", checks=checks)
    as_good = f"{rollout.version} is not worse than {rollout.champion} {_seen(evidence)}"
    return Decision(outcome="promote" if rollout.last else "advance", sentence=as_good, checks=checks)


def _checks(rollout: Rollout, evidence: Evidence, policy: ReleaseParams) -> list[Check]:
    shadow, alpha, steps = rollout.strategy == "shadow", policy.false_rollback_rate, evidence.steps
    new, old = rollout.version, rollout.champion
    mine, theirs = _total([step.new for step in steps]), _total([step.live for step in steps])
    each = max(1, len(evidence.classes))
    found = _starts(evidence, new)
    for name in evidence.classes:
        if shadow:
            e = paired_rarer(*_pairs([step.answers.get(name, Pairs()) for step in steps]), COLLAPSED)
        else:
            e = rarer(
                [_stratum(step, step.new.answers.get(name, 0), step.live.answers.get(name, 0)) for step in steps],
                COLLAPSED,
            )
        own, other = (_of(arm.answers.get(name, 0), arm.n) for arm in (mine, theirs))
        said = f"{new} answers {name} in {own}, {old} in {other}"
        found.append(_check(f"class.{name}.share", e, alpha * PARTS["share"] / each, said))
        if (labelled := evidence.by_class.get(name)) is not None:
            said = f"of images labelled {name}, {_right(labelled, new, old)}"
            found.append(_accuracy(f"class.{name}.accuracy", labelled, alpha * PARTS["class"] / each, said, shadow))
    if evidence.labelled.new:
        said = f"of labelled images, {_right(evidence.labelled, new, old)}"
        found.append(_accuracy("accuracy", evidence.labelled, alpha * PARTS["accuracy"], said, shadow))
    if shadow:
        e = paired_commoner(*_pairs([step.review for step in steps]), MORE_REVIEW)
    else:
        e = commoner([_stratum(step, step.new.review, step.live.review) for step in steps], MORE_REVIEW)
    more = _rate(mine.review, mine.n) - _rate(theirs.review, theirs.n)
    said = f"{new} asks for review of {_of(mine.review, mine.n)}, {old} of {_of(theirs.review, theirs.n)}"
    found.append(_check("review", e if more > REVIEW_POINTS else 0.0, alpha * PARTS["review"], said))
    failed = evidence.failed
    bound = min(0.99, policy.max_error_rate + _rate(failed.live_failed, failed.live_asked))
    own, other = _of(failed.new_failed, failed.new_asked), _of(failed.live_failed, failed.live_asked)
    e = exceeds(failed.new_failed, failed.new_asked, bound)
    found.append(_check("errors", e, alpha * PARTS["errors"], f"{new} failed on {own}, {old} on {other}"))
    slower, timed = sum(step.slower for step in steps), sum(step.timed for step in steps)
    said = (
        f"{_of(slower, timed)} answers of {new} took over {policy.max_latency_ratio:g} times as long as those of {old}"
    )
    found.append(_check("latency", exceeds(slower, timed, 0.5), alpha * PARTS["latency"], said))
    return found


def _starts(evidence: Evidence, new: str) -> list[Check]:
    """The check of a challenger that a process cannot compute with; none where all can. Chance has no part in it."""
    failed = evidence.failed
    if not failed.not_loaded:
        return []
    works = failed.loaded or failed.new_asked > failed.new_failed
    said = f"{new} fails in {failed.not_loaded} process(es) of the service before any image"
    said += f", and works in {failed.loaded} others: {failed.why}" if works else f", and works in none: {failed.why}"
    return [Check(name=STARTS, status="pass" if works else "fail", detail=said)]


def _check(name: str, log_e: float, alpha: float, said: str) -> Check:
    """A check that fails where the e-value reaches 1/alpha; `value` is the p-value that holds at every look."""
    status = "fail" if log_e >= -log(alpha) else "pass"
    return Check(name=name, status=status, value=exp(-max(log_e, 0.0)), bound=alpha, detail=said)


def _accuracy(name: str, labelled: Labelled, alpha: float, said: str, paired: bool) -> Check:
    blocks: Counter[tuple[int, int, bool]] = Counter()
    for block in labelled.blocks:
        blocks[block.live, block.wrong, block.new_is_wrong] += block.count
    check = _check(name, more_wrong(blocks), alpha, said)
    if not labelled.live:
        return check
    if paired:
        gained = sum(block.count for block in labelled.blocks if block.wrong == 1 and not block.new_is_wrong)
        lost = sum(block.count for block in labelled.blocks if block.wrong == 1 and block.new_is_wrong)
        low, high = intervals.paired_difference(gained, lost, labelled.new, Z)
    else:
        counts = (labelled.new_right, labelled.new, labelled.live_right, labelled.live)
        low, high = intervals.unpaired_difference(*counts, Z)
    return check.model_copy(update={"low": low, "high": high})


def _stratum(step: StepEvidence, new: int, live: int) -> tuple[int, int, float]:
    """Events of both arms, and the challenger's share as it was: services learn of a step later than the store."""
    return new, live, _rate(step.new.n, step.new.n + step.live.n)


def _pairs(found: list[Pairs]) -> tuple[int, int, int]:
    return sum(one.both for one in found), sum(one.only_live for one in found), sum(one.only_new for one in found)


def _total(arms: list[Arm]) -> Arm:
    answers: dict[str, int] = {}
    for arm in arms:
        for name, count in arm.answers.items():
            answers[name] = answers.get(name, 0) + count
    return Arm(n=sum(arm.n for arm in arms), answers=answers, review=sum(arm.review for arm in arms))


def _seen(evidence: Evidence) -> str:
    labelled = f", {evidence.labelled.new:,} with a true label" if evidence.labelled.new else ", none with a true label"
    return f"on {sum(step.new.n for step in evidence.steps):,} requests{labelled}"


def _right(found: Labelled, new: str, old: str) -> str:
    return f"{new} has {found.new_right:,} of {found.new:,} right, {old} {found.live_right:,} of {found.live:,}"


def _rate(count: int, n: int) -> float:
    return count / n if n else 0.0


def _of(count: int, n: int) -> str:
    return f"{_rate(count, n):.1%} of {n:,}"
