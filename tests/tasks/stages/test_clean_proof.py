"""Cleaning must show a gain on held-out labels before it changes one: the measurement and its verdict."""

from dataclasses import astuple, replace

import numpy as np
import pytest

from tasks.common.params import CleanParams
from tasks.stages.clean import proof
from tasks.stages.clean.judge import judge_parts, judge_training
from tasks.stages.clean.policy import Decision, judge_gain, queue_all
from tasks.stages.clean.proof import ROWS, Gain, interval, measure_gain, nearest, sample_groups, whole_groups
from tasks.stages.clean.stage import proof_figures, repair, sentence


def pairs(noise: float, apart: float, each: int = 90, seed: int = 0):
    """(x, given, true, groups): 4 classes in 24 dimensions, two images of each object, some labels of objects wrong."""
    rng = np.random.default_rng(seed)
    true = np.repeat(np.arange(4), each)
    objects = apart * rng.normal(size=(4, 24))[true] + rng.normal(size=(len(true), 24))
    given = true.copy()
    flip = rng.choice(len(true), int(noise * len(true)), replace=False)
    given[flip] = (given[flip] + rng.integers(1, 4, len(flip))) % 4
    x = np.repeat(objects, 2, axis=0) + 0.3 * rng.normal(size=(2 * len(true), 24))
    groups = np.repeat(np.arange(len(true)), 2).astype(str)
    return x.astype(np.float32), np.repeat(given, 2), np.repeat(true, 2), groups


def by_part(change):
    """A repair of each part by `change(x, y, groups)`."""
    return lambda x, y, groups, clusters, fold, parts: [change(x[rows], y[rows], groups[rows]) for rows in parts]


def gain_of(x, y, groups, change) -> Gain:
    return measure_gain(x, y, 4, groups, groups, 5, 0, by_part(change))


def test_true_labels_gain_and_false_ones_lose():
    x, given, true, groups = pairs(noise=0.2, apart=0.7)
    place = {row.tobytes(): label for row, label in zip(x, true, strict=True)}

    def truth(x, y, groups):
        return np.array([place[row.tobytes()] for row in x]), np.ones(len(y), bool)

    def worse(x, y, groups):
        return np.where(np.arange(len(y)) % 5 == 0, (y + 1) % 4, y), np.ones(len(y), bool)

    def nothing(x, y, groups):
        return y, np.ones(len(y), bool)

    better = gain_of(x, given, groups, truth)
    assert better.low > 0
    assert judge_gain(better).allowed
    assert gain_of(x, given, groups, worse).high < 0
    same = gain_of(x, given, groups, nothing)
    assert better.cleaned > better.given + 0.03
    assert (same.gain, same.low, same.high) == (0, 0, 0)
    assert (same.rows, same.groups) == (720, 360)
    assert not judge_gain(same).allowed


def test_wrong_labels_are_repaired_and_hard_images_only_queued():
    policy = CleanParams()
    names = list("abcd")
    outcomes = {}
    for noise, apart in ((0.2, 0.9), (0, 0.25)):
        x, given, true, groups = pairs(noise, apart)
        found = judge_training(x, given, names, groups, groups, policy.folds, policy.seed)
        if not noise:  # as if the labels bore out every disagreement with the probe
            differs = found.suspicion.predicted != given
            sure = replace(found.suspicion, confidence=np.ones(len(given)), quality=1.0 - differs)
            found = found._replace(suspicion=sure, proven=sure, confusion=np.zeros(len(given)))
        decision, gain, verdict = repair(found, x, given, names, groups, groups, policy)
        outcomes[noise] = verdict.allowed
        if noise:
            relabel = decision.actions == "relabel"
            assert gain.low > 0
            assert (found.suspicion.predicted[relabel] == true[relabel]).mean() > 0.9
        else:
            assert "unproven" in decision.reasons
            assert not decision.changed.any()
            assert set(decision.actions[decision.reasons == "unproven"]) == {"queue"}
    assert outcomes == {0.2: True, 0: False}


def test_images_that_are_hard_to_tell_are_told_from_wrong_labels():
    shares = {}
    for noise, apart in ((0.2, 0.9), (0, 0.25)):
        x, given, _, groups = pairs(noise, apart)
        found = judge_training(x, given, list("abcd"), groups, groups, 5, 0)
        shares[noise] = found.hard_to_tell.sum() / max(found.suspicion.is_issue.sum(), 1)
    assert shares[0] > 0.9 > 0.3 > shares[0.2], "right labels of hard images, and wrong labels of clear ones"


def test_labels_that_need_no_repair_are_not_measured():
    x, given, _, groups = pairs(noise=0, apart=2)
    found = judge_training(x, given, list("abcd"), groups, groups, 5, 0)
    decision, gain, verdict = repair(found, x, given, list("abcd"), groups, groups, CleanParams())
    assert (gain, verdict) == (None, None)
    assert not decision.changed.any()
    assert proof_figures(gain, verdict) == {"proof": None}


def test_no_group_is_learnt_from_and_predicted():
    x, given, _, groups = pairs(noise=0.1, apart=1, each=10)
    seen = []

    def watch(x, y, groups):
        seen.append(set(groups))
        return y, np.ones(len(y), bool)

    found = gain_of(x, given, groups, watch)
    assert found.groups == 40
    assert [len(names) for names in seen] == pytest.approx([32] * 5, abs=1)
    assert all(sum(name in names for names in seen) == 4 for name in set(groups))


def test_a_class_of_one_group_is_learnt_from_and_never_predicted():
    groups = np.array(["a", "a", "b", "b", "c", "d"])
    members = np.eye(3, dtype=bool)[[0, 0, 1, 1, 1, 1]][:, :2]
    held, learnt = np.array([True, True, True, False, False, False]), np.array([False, False, False, True, True, True])
    predicted, trained = whole_groups(held, learnt, groups, members)
    assert trained.tolist() == [True, True, False, True, True, True]
    assert not predicted.any(), "b has an image in training, a has become training"


def test_one_group_alone_proves_nothing():
    x, given, _, _ = pairs(noise=0.1, apart=1, each=10)
    one = np.full(len(given), "one")
    assert measure_gain(x, given, 4, one, one, 5, 0, lambda *_: pytest.fail("nothing to learn from")) is None
    verdict = judge_gain(None)
    assert not verdict.allowed
    assert "held out" in verdict.why


def test_parts_that_cannot_be_judged_prove_nothing():
    x, given, _, groups = pairs(noise=0.2, apart=0.7, each=10)
    none_of_them = lambda *arguments: [None] * len(arguments[-1])  # noqa: E731
    assert measure_gain(x, given, 4, groups, groups, 5, 0, none_of_them) is None


def test_the_interval_counts_groups_not_images():
    gain = np.array([1.0] * 100 + [0.0] * 100)
    alone = interval(gain, np.arange(200).astype(str), 0)
    assert alone == pytest.approx((0.43, 0.57), abs=0.02)
    low, high = interval(gain, np.repeat(["a", "b", "c", "d"], 50), 0)
    assert (low, high) == (0, 1)


def test_a_large_set_is_measured_on_whole_groups():
    groups = np.repeat(np.arange(50), 4).astype(str)
    rows = sample_groups(groups, 90, 0)
    assert len(rows) == 88
    assert set(np.unique(groups[rows], return_counts=True)[1]) == {4}
    assert sample_groups(groups, 200, 0).tolist() == list(range(200))


def test_multilabel_gains_are_shares_of_right_labels():
    rng = np.random.default_rng(0)
    true = (rng.random((400, 3)) < 0.4).astype(np.float32)
    x = (true @ rng.normal(size=(3, 16)) + 0.5 * rng.normal(size=(400, 16))).astype(np.float32)
    given = np.where(rng.random(true.shape) < 0.2, 1 - true, true).astype(np.float32)
    place = {row.tobytes(): label for row, label in zip(x, true, strict=True)}
    groups = np.arange(400).astype(str)
    found = measure_gain(
        x,
        given,
        3,
        groups,
        groups,
        4,
        0,
        by_part(lambda x, y, _: (np.array([place[row.tobytes()] for row in x]), y[:, 0] >= 0)),
    )
    assert 0.5 < found.given < found.cleaned < 0.85, "a fifth of the held-out labels is wrong"
    assert found.low > 0


def test_without_permission_every_repair_waits():
    decision = Decision(np.array(["keep", "relabel", "drop", "queue"]), np.array(["", "", "", "rare_class"]))
    actions, reasons = astuple(queue_all(decision))
    assert actions.tolist() == ["keep", "queue", "queue", "queue"]
    assert reasons.tolist() == ["", "unproven", "unproven", "rare_class"]


def test_the_sentence_tells_looks_wrong_from_changed():
    figures = {"rows": 1734, "issues": 391, "changed": 0, "held_out_issues": {"calibration": 7, "test": 3}}
    figures["actions"] = {"keep": 1343, "relabel": 0, "drop": 0, "queue": 391}
    gain = Gain(given=0.5, cleaned=0.501, low=-0.01, high=0.012, rows=1734, groups=848)
    refused = proof_figures(gain, judge_gain(gain))
    assert sentence(figures | refused) == (
        "22.5% of the training labels look wrong (391); 0 changed, because cleaning did not show a gain on held-out "
        "labels; 401 wait in the queue"
    )
    unclear = "look wrong (391), all of them perhaps only hard to tell; 0"
    assert unclear in sentence(figures | refused | {"hard_to_tell": 391})
    assert "(391), 40 of them perhaps" in sentence(figures | refused | {"hard_to_tell": 40})
    figures |= {"changed": 21, "actions": {"keep": 1343, "relabel": 20, "drop": 1, "queue": 370}}
    assert "; 21 changed; 380 wait in the queue" in sentence(figures | {"proof": {"allowed": True, "why": ""}})
    assert "; 0 changed; " in sentence(figures | {"changed": 0, "proof": None})


def test_the_nearest_neighbour_is_found_by_angle_in_standardised_features(monkeypatch):
    rng = np.random.default_rng(0)
    x, part = rng.normal(size=(90, 5)) * 3 + 7, np.sort(rng.integers(0, 4, 90))
    held = part == np.arange(3)[:, None]  # the fourth part is held in none
    learnt = ~held & (rng.random(held.shape) < 0.8)
    kept = learnt & (rng.random(held.shape) < 0.7)
    scale = np.full(5, 7.0), np.array([3, 3, 3, 3, 1.5])
    units = (x - scale[0]) / scale[1]
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    for rows in (ROWS, 16):
        monkeypatch.setattr(proof, "ROWS", rows)
        for found, allowed in zip(nearest(x, held, learnt, kept, scale), (learnt, kept), strict=True):
            wanted = np.where(allowed[:, None, :], units @ units.T, -np.inf).argmax(axis=2)
            wanted = wanted[held.argmax(axis=0), np.arange(90)]
            assert found.tolist() == np.where(part < 3, wanted, 0).tolist()


def test_parts_are_judged_without_the_fold_that_they_lack():
    x, given, _, groups = pairs(noise=0.2, apart=0.9, each=30)
    fold = np.repeat(np.arange(5), len(given) // 5)
    parts = fold != np.arange(5)[:, None]
    other = np.where(fold == 1, (given + 1) % 4, given)
    one, two = (judge_parts(x, y, list("abcd"), groups, groups, fold, parts, 5, 0) for y in (given, other))
    np.testing.assert_array_equal(one[1].suspicion.quality, two[1].suspicion.quality)
    assert not np.array_equal(one[0].suspicion.quality, two[0].suspicion.quality)
    alone = given.copy()
    alone[fold != 1] = 0
    found = judge_parts(x, alone, list("abcd"), groups, groups, fold, parts, 5, 0)
    assert found[1] is None, "only the held-out fold has several classes"
    assert found[0] is not None
