"""The decision about a rollout, from counts alone, and each setting of `release` that it reads."""

import pytest

from benchmarks.canary_traffic import run
from flows.rollout.decide import decide
from flows.rollout.evidence import Arm, Evidence, Failed, Pairs, StepEvidence
from monitoring.sequential import rarer
from tasks.common.params import ReleaseParams
from tests.tasks.releases.test_rollout import rollout

CANARY = ReleaseParams(strategy="canary")
SHADOW = ReleaseParams(strategy="shadow")
NONE = Failed()


def seen(new: Arm, live: Arm, hours: float = 2.0, failed: Failed = NONE, **step) -> Evidence:
    return Evidence(
        classes=("bag",),
        steps=(StepEvidence(step=0, share=0.05, new=new, live=live, **step),),
        hours=hours,
        failed=failed,
    )


def arm(n: int, bags: float = 0.1, review: float = 0.1) -> Arm:
    return Arm(n=n, answers={"bag": round(n * bags)}, review=round(n * review))


GOOD = seen(arm(600), arm(11_400))


def test_it_waits_for_requests_and_hours_then_goes_on():
    assert decide(rollout(), GOOD, CANARY).outcome == "advance"
    assert decide(rollout(step=1), GOOD, CANARY).outcome == "promote"
    few = seen(arm(499), arm(9_000))
    assert decide(rollout(), few, CANARY).outcome == "wait"
    assert decide(rollout(), few, CANARY.model_copy(update={"min_requests": 400})).outcome == "advance"
    quick = GOOD.model_copy(update={"hours": 0.9})
    assert decide(rollout(), quick, CANARY).outcome == "wait"
    assert decide(rollout(), quick, CANARY.model_copy(update={"min_hours": 0.5})).outcome == "advance"
    late = few.model_copy(update={"hours": 169.0})
    assert decide(rollout(), late, CANARY).outcome == "give_up"
    assert decide(rollout(), late, CANARY.model_copy(update={"max_hours": 200.0})).outcome == "wait"
    assert decide(rollout(), Evidence(classes=(), steps=()), CANARY).outcome == "wait"


def test_a_class_that_vanished_ends_it_also_before_enough_requests():
    found = decide(rollout(), seen(arm(300, bags=0.0), arm(5_700)), CANARY)
    assert found.outcome == "roll_back"
    assert found.sentence == (
        "v0.2.0 is worse in production: v0.2.0 answers bag in 0.0% of 300, v0.1.0 in 10.0% of 5,700"
    )
    (check,) = [one for one in found.checks if one.status == "fail"]
    assert check.name == "class.bag.share"
    assert check.value < check.bound == pytest.approx(0.02 * 0.3)
    assert decide(rollout(), seen(arm(600, bags=0.08), arm(11_400)), CANARY).outcome == "advance", "a bit rarer"


def test_a_surer_rollback_takes_more_evidence():
    between = next(n for n in range(20, 4000) if rarer([(0, n // 10, 0.05)], 0.5) > 8)
    bags = seen(Arm(n=between // 19, answers={}), Arm(n=between, answers={"bag": between // 10}))
    outcomes = {
        rate: decide(rollout(), bags, CANARY.model_copy(update={"false_rollback_rate": rate})).outcome
        for rate in (0.02, 0.00001)
    }
    assert outcomes == {0.02: "roll_back", 0.00001: "wait"}


def test_failures_reviews_and_slow_answers_end_it():
    failed = seen(arm(600), arm(11_400), failed=Failed(new_asked=600, new_failed=25, live_asked=11_400, live_failed=10))
    assert "v0.2.0 failed on 4.2% of 600, v0.1.0 on 0.1% of 11,400" in decide(rollout(), failed, CANARY).sentence
    assert decide(rollout(), failed, CANARY.model_copy(update={"max_error_rate": 0.05})).outcome == "advance"
    unsure = seen(arm(600, review=0.5), arm(11_400))
    assert "v0.2.0 asks for review of 50.0% of 600" in decide(rollout(), unsure, CANARY).sentence
    rare = seen(arm(600, review=0.04), arm(11_400, review=0.001))
    assert decide(rollout(), rare, CANARY).outcome == "advance", "40 times as often, and under 5 points"
    slow = seen(arm(600), arm(11_400), slower=500, timed=600)
    assert "took over 2 times as long" in decide(rollout(), slow, CANARY).sentence


def test_a_shadow_is_compared_on_the_same_images():
    shadow = rollout(strategy="shadow", steps=(0.0,))
    same = {"answers": {"bag": Pairs(both=50, only_live=5, only_new=5)}, "review": Pairs(both=50), "agree": 590}
    assert decide(shadow, seen(arm(600), arm(600), **same), SHADOW).outcome == "promote"
    gone = same | {"answers": {"bag": Pairs(only_live=60)}}
    assert decide(shadow, seen(arm(600, bags=0.0), arm(600), **gone), SHADOW).outcome == "roll_back"
    unsure = same | {"review": Pairs(both=50, only_new=200)}
    assert decide(shadow, seen(arm(600, review=0.4), arm(600), **unsure), SHADOW).outcome == "roll_back"


def test_slow_answers_are_counted_by_the_ratio_of_params():
    policy = ReleaseParams(strategy="canary", steps=[0.5], min_hours=0.0, min_requests=100)
    counts = [
        run(1, policy.model_copy(update={"max_latency_ratio": ratio}), "equal", every=300).decision.checks[-1].detail
        for ratio in (1.5, 4.0)
    ]
    shares = [float(said.partition("%")[0]) for said in counts]
    assert shares[0] > 20 > shares[1]


def test_simulated_canaries_end_as_they_should():
    policy = ReleaseParams(strategy="canary", steps=[0.2], min_hours=0.0, min_requests=400)
    assert run(2, policy, "equal", labelled=0.5, every=250).how == "promote"
    lost = run(2, policy, "collapsed", lost=3, every=100)
    assert (lost.how, lost.requests < 400) == ("roll_back", True)
    swapped = run(2, policy, "swapped", lost=3, labelled=1.0, every=100)
    assert (swapped.how, swapped.labelled < 200) == ("roll_back", True)
