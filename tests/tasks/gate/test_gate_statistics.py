"""The gate's statistics: against scikit-learn and exact tests, and how often the gate errs."""

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, f1_score

from tasks.common.params import GateParams
from tasks.gate.paired import compare, compare_hits
from tests.support.predictions import TARGETS, K, checks, measured, table, verdict, wrong


def test_differences_are_scikit_learns():
    rng = np.random.default_rng(0)
    targets = rng.choice(K, 300, p=[0.6, 0.2, 0.1, 0.07, 0.03])
    new, old = (np.where(rng.random(300) < share, targets, rng.integers(0, K, 300)) for share in (0.7, 0.5))
    settings = {"confidence": 0.9, "resamples": 200, "few": 20}
    found = compare("balanced_accuracy", targets, new, old, K, **settings)
    assert found.new == pytest.approx(balanced_accuracy_score(targets, new))
    assert found.old == pytest.approx(balanced_accuracy_score(targets, old))
    assert found.low < found.value < found.high
    found = compare("macro_f1", targets, new, old, K, **settings)
    assert found.value == pytest.approx(
        f1_score(targets, new, average="macro") - f1_score(targets, old, average="macro")
    )
    assert (found.gained, found.lost) == (
        ((new == targets) & (old != targets)).sum(),
        ((new != targets) & (old == targets)).sum(),
    )


def test_randomisation_agrees_with_the_exact_test():
    """For accuracy the randomisation test is McNemar's test by simulation."""
    new, old = wrong(TARGETS, np.arange(0, 12)), wrong(TARGETS, np.arange(8, 30))
    found = compare("accuracy", TARGETS, new, old, K, confidence=0.95, resamples=4000, few=20)
    exact = compare_hits(new == TARGETS, old == TARGETS, 0.95)
    assert found.p_better == pytest.approx(exact.p_better, abs=0.01)
    assert found.p_worse == pytest.approx(exact.p_worse, abs=0.01)
    assert found.low == pytest.approx(exact.low, abs=0.01)
    assert found.high == pytest.approx(exact.high, abs=0.01)


def test_bootstrap_intervals_hold_the_truth_about_as_often_as_they_say():
    rng = np.random.default_rng(0)
    targets = np.repeat([0, 1, 2], [120, 60, 30])
    inside = 0
    for _ in range(150):
        new = np.where(rng.random(210) < 0.8, targets, (targets + 1) % 3)
        old = np.where(rng.random(210) < 0.7, targets, (targets + 1) % 3)
        found = compare("balanced_accuracy", targets, new, old, 3, confidence=0.9, resamples=300, few=20)
        inside += found.low <= 0.1 <= found.high
    assert 0.82 <= inside / 150 <= 0.97


def simulated(rng, difficulty, change=None):
    """Answers of a model that has an image right with its own probability, `change`d in some classes."""
    chance = difficulty + (0 if change is None else change[TARGETS])
    return np.where(rng.random(len(TARGETS)) < chance, TARGETS, (TARGETS + rng.integers(1, K, len(TARGETS))) % K)


@pytest.mark.long
def test_of_500_equal_candidates_at_most_2_percent_are_promoted_and_as_few_rejected():
    """One test set, candidate after candidate, a winner becomes the champion: the way a test set is worn out."""
    rng = np.random.default_rng(11)
    outcomes = []
    for _ in range(5):
        difficulty = rng.beta(0.6, 0.12, len(TARGETS))  # most images easy, some hopeless: 11 % disagreement
        champion = simulated(rng, difficulty)
        for _ in range(100):
            candidate = simulated(rng, difficulty)
            policy = GateParams(resamples=300)
            outcome = verdict(
                table(TARGETS, candidate), table(TARGETS, champion), measured(TARGETS, candidate), policy
            ).outcome
            outcomes.append(outcome)
            if outcome == "promote":
                champion = candidate
    assert outcomes.count("promote") <= 10
    assert outcomes.count("reject") <= 10


def test_a_class_15_points_worse_is_not_promoted_and_a_better_model_is():
    rng = np.random.default_rng(12)
    one_worse, all_better = np.array([-0.15, 0, 0, 0, 0]), np.full(K, 0.1)
    promoted = {"worse": 0, "better": 0}
    for _ in range(30):
        difficulty = np.clip(rng.beta(0.6, 0.12, len(TARGETS)), 0.16, 0.9)
        champion = simulated(rng, difficulty)
        for name, change in (("worse", one_worse), ("better", all_better)):
            candidate = simulated(rng, difficulty, change)
            found = verdict(table(TARGETS, candidate), table(TARGETS, champion), measured(TARGETS, candidate))
            promoted[name] += found.outcome == "promote"
    assert promoted["worse"] == 0
    assert promoted["better"] >= 20


def test_shots_of_one_object_are_one_proof():
    """Ten objects, six shots each, all six gained or lost together: 30 images in favour are five coins."""
    rows = np.arange(120)
    objects = np.where(rows < 60, rows // 6, rows)
    targets, old = np.zeros(120, np.int64), np.where(rows < 30, 1, 0)
    new = np.zeros(120, np.int64)
    settings = {"confidence": 0.98, "resamples": 2000, "few": 20}
    alone = compare("accuracy", targets, new, old, 2, **settings)
    together = compare("accuracy", targets, new, old, 2, groups=objects, **settings)
    assert alone.p_better < 0.001
    assert together.p_better == pytest.approx(1 / 32, abs=0.01)
    assert (together.new, together.old, together.n) == (alone.new, alone.old, alone.n)
    assert (together.groups, alone.groups) == (70, None)
    assert together.low < alone.low
    hits = compare_hits(new == targets, old == targets, 0.98, objects)
    assert hits.p_better == pytest.approx(1 / 32, abs=0.01)
    assert (hits.gained, hits.lost) == (30, 0)


def test_groups_of_one_image_change_nothing():
    rng = np.random.default_rng(3)
    targets = rng.integers(0, 3, 90)
    new, old = (np.where(rng.random(90) < 0.7, targets, (targets + 1) % 3) for _ in range(2))
    settings = {"confidence": 0.98, "resamples": 200, "few": 20}
    for metric in ("balanced_accuracy", "accuracy", "macro_f1"):
        expected = compare(metric, targets, new, old, 3, **settings)
        assert compare(metric, targets, new, old, 3, groups=np.arange(90)[::-1], **settings) == expected
    labels, said, before = (rng.random((90, 3)) < 0.4 for _ in range(3))
    expected = compare("balanced_accuracy", labels, said, before, 3, **settings)
    assert compare("balanced_accuracy", labels, said, before, 3, groups=np.arange(90), **settings) == expected
    twice = compare("balanced_accuracy", labels, said, before, 3, groups=np.arange(90) // 2, **settings)
    assert (twice.new, twice.old, twice.n, twice.groups) == (expected.new, expected.old, 90, 45)


@pytest.mark.parametrize("known", ["group", "cluster"])
def test_a_gain_on_many_shots_of_few_objects_is_not_shown(known):
    """The challenger has 6 of 60 objects right that the champion had wrong, five shots of each."""
    objects = [f"object-{row // 5}" for row in range(300)]
    old = wrong(TARGETS, [row for row in range(300) if row // 5 % 10 == 0])
    recorded = {"groups": objects} if known == "group" else {}
    new, live = table(TARGETS, TARGETS, **recorded), table(TARGETS, old, **recorded)
    plain = verdict(table(TARGETS, TARGETS), table(TARGETS, old), measured(TARGETS, TARGETS))
    twins = dict(zip(new["id"].to_pylist(), objects, strict=True)) if known == "cluster" else {}
    found = verdict(new, live, measured(TARGETS, TARGETS), clusters=twins)
    assert plain.outcome == "promote"
    assert found.outcome == "hold"
    assert "on 300 images in 60 groups" in checks(found)["test.balanced_accuracy"].detail
    assert "McNemar" not in checks(found)["test.balanced_accuracy"].detail


def test_the_verdict_names_how_far_equal_models_lie_apart():
    """12 images gained, 22 lost: of 34 coins, 95 % of throws lie within 11 of even, on 300 images in equal classes."""
    new, old = wrong(TARGETS, np.arange(8, 30)), wrong(TARGETS, np.arange(0, 12))
    found = compare("accuracy", TARGETS, new, old, K, confidence=0.95, resamples=4000, few=20)
    coins = np.abs(2 * np.random.default_rng(0).binomial(found.gained + found.lost, 0.5, 100_000)
                   - found.gained - found.lost) / 300  # fmt: skip
    assert found.noise == pytest.approx(np.quantile(coins, 0.95), abs=0.008)
    said = verdict(table(TARGETS, new), table(TARGETS, old), measured(TARGETS, new))
    figure = checks(said)["test.balanced_accuracy"]
    assert "such as two seeds of one recipe, lie within" in figure.detail
    assert ", other seeds alone ±" in said.sentence
    same = verdict(table(TARGETS, new), table(TARGETS, new), measured(TARGETS, new))
    assert "other seeds alone ±0.0" in same.sentence
