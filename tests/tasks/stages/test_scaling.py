"""Scaling of logits, how it is fitted, and how one is chosen by held-out log-loss."""

import json
import time

import numpy as np
import pytest

from tasks.common.errors import DataError
from tasks.common.params import CalibrateParams
from tasks.inference import thresholds
from tasks.inference.scaling import Scaling, read_scaling, scale, to_json
from tasks.inference.temperature import probabilities
from tasks.scoring import metrics
from tasks.stages.calibrate.calibration import HeldOut, fit_calibration
from tasks.stages.calibrate.fitting import (
    Candidate,
    choose_scaling,
    fit_scaling,
    image_losses,
    measured_rows,
    simplest,
    standard_error,
)

RNG = np.random.default_rng(0)
STRONG = Candidate("classwise", 10.0)


def drawn(p: np.ndarray, rng=RNG) -> np.ndarray:
    """(N,) targets that come true as often as probabilities (N, K) say."""
    return (p.cumsum(axis=1) > rng.random((len(p), 1))).argmax(axis=1)


def shifted(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits of a head for equally frequent classes, and labels of a mix of 100 : 10 : 1, three times less sure."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 6, (count, 3))
    return logits, drawn(probabilities(logits / 3 + np.log([100, 10, 1]), 1.0, "multiclass"), rng)


def labels(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Multi-label logits whose first label is 20 times rarer than they say, and labels."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 3, (count, 3))
    p = probabilities(logits - np.array([3.0, 0, 0]), 1.0, "multilabel")
    return logits, (rng.random(p.shape) < p).astype(np.float32)


CLASSWISE = Scaling("classwise", 1.4, 0.1, np.array([0.3, 1.0, 4.0]), np.array([2.0, -1.0, -4.0]))


@pytest.mark.parametrize("scaling", [Scaling(), Scaling("temperature", 3.0, 0.2), CLASSWISE])
def test_no_scaling_moves_an_answer(scaling):
    logits = RNG.normal(0, 2, (5000, 3))
    p = scale(logits, scaling, "multiclass")
    np.testing.assert_allclose(p.sum(axis=1), 1)
    rule = thresholds.Rule("multiclass", np.full(3, 0.5), scaling.undo(3))
    assert (thresholds.answers(p, rule) == logits.argmax(axis=1)).all()
    if scaling is CLASSWISE:
        assert (p.argmax(axis=1) != logits.argmax(axis=1)).mean() > 0.2, "without the weights it would"


def test_smoothing_never_claims_more_than_the_images_can_prove():
    certain = scale(np.array([[1e4, 0, 0]]), Scaling("temperature", 1.0, 0.1), "multiclass")
    np.testing.assert_allclose(certain, [[0.9 + 0.1 / 3, 0.1 / 3, 0.1 / 3]])
    np.testing.assert_allclose(scale(np.array([[1e4]]), Scaling("temperature", 1.0, 0.1), "multilabel"), [[0.95]])


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
@pytest.mark.parametrize("scaling", [Scaling(), Scaling("temperature", 3.0, 0.2), CLASSWISE])
def test_a_scaling_is_read_as_it_was_written(scaling, task):
    stored = json.loads(json.dumps({"classes": list("abc"), "scaling": to_json(scaling, list("abc"))}))
    logits = RNG.normal(0, 2, (20, 3))
    np.testing.assert_array_equal(scale(logits, read_scaling(stored), task), scale(logits, scaling, task))


def test_what_an_older_bundle_says_is_a_temperature():
    found = scale(np.array([[2.0, 0.0]]), read_scaling({"classes": ["a", "b"], "temperature": 2.0}), "multiclass")
    np.testing.assert_array_equal(found, probabilities(np.array([[1.0, 0.0]]), 1.0, "multiclass"))


@pytest.mark.parametrize("make", [shifted, labels])
def test_class_wise_scaling_learns_how_frequent_classes_are(make):
    logits, targets = make(6000)
    choice = choose_scaling(logits, targets, [None] * 6000)
    assert choice.scaling.method == "classwise"
    assert "uncalibrated" in choice.why
    assert min(choice.losses, key=choice.losses.get).startswith("classwise")
    other = make(6000, 1)
    losses = [
        image_losses(*other, one).mean() for one in (choice.scaling, fit_scaling(*other, Candidate("temperature")))
    ]
    assert losses[0] < 0.8 * losses[1]


@pytest.mark.parametrize("make", [shifted, labels])
@pytest.mark.parametrize("penalty", [0.5, 40.0])
def test_the_fit_is_where_the_penalised_loss_is_lowest(make, penalty):
    logits, targets = make(300)
    best = fit_scaling(logits, targets, Candidate("classwise", penalty))

    def loss(scaling: Scaling) -> float:
        plain = Scaling("classwise", scaling.temperature, 0.0, scaling.sharpness, scaling.bias)
        found = image_losses(logits, targets, plain).sum() * (1 if targets.ndim == 1 else targets.shape[1])
        return found + penalty * (np.square(scaling.bias).sum() + np.square(scaling.sharpness - 1).sum())

    for _ in range(30):
        moved = (getattr(best, name) + RNG.normal(0, 0.03, 3) for name in ("sharpness", "bias"))
        assert loss(Scaling("classwise", best.temperature, 0.0, *moved)) > loss(best) - 1e-4


def test_a_calibrated_model_is_left_exactly_as_it_is():
    left = 0
    for seed in range(10):
        rng = np.random.default_rng(seed)
        logits = rng.normal(0, 2, (400, 4))
        targets = drawn(probabilities(logits, 1.0, "multiclass"), rng)
        choice = choose_scaling(logits, targets, [None] * 400)
        if choice.candidate.method == "none":
            left += 1
            np.testing.assert_array_equal(
                scale(logits, choice.scaling, "multiclass"), probabilities(logits, 1.0, "multiclass")
            )
    assert left >= 8


def test_a_small_difference_between_classes_needs_many_images_to_count():
    """Classes 1.3 : 1 : .8, which 5,000 images show and 60 do not."""

    def chosen(count: int, seed: int) -> str:
        rng = np.random.default_rng(seed)
        logits = rng.normal(0, 3, (count, 3))
        targets = drawn(probabilities(logits / 2 + np.log([1.3, 1, 0.8]), 1.0, "multiclass"), rng)
        return choose_scaling(logits, targets, [None] * count).scaling.method

    assert [chosen(60, seed) for seed in range(10)].count("classwise") <= 3
    assert chosen(5000, 0) == "classwise"


def test_images_of_one_group_are_one_observation():
    """200 copies of 10 images prove no more than the 10."""
    logits, targets = shifted(10, 3)
    copied, same = np.repeat(logits, 200, axis=0), np.repeat(targets, 200)
    groups = np.repeat(np.arange(10), 200).astype(str).tolist()
    assert choose_scaling(copied, same, groups).scaling.method != "classwise"
    assert choose_scaling(copied, same, [None] * 2000).scaling.method == "classwise"
    alone = choose_scaling(logits, targets, ["one"] * 10)
    assert (alone.scaling.method, alone.losses) == ("temperature", {})


def test_the_simplest_within_one_standard_error_is_taken():
    names = [Candidate("none"), Candidate("temperature"), STRONG]
    noise = np.tile([0.0, 0.2], 50)
    losses = np.stack([1.5 + 0 * noise, 1.011 - noise / 10, 1.0 + noise / 10 - 0.01])
    group = np.arange(100)
    assert standard_error(losses[1] - losses[2], group) == pytest.approx(0.002, rel=0.02)
    chosen, why = simplest(names, losses, group)
    assert chosen.method == "temperature"
    assert why.startswith("held-out log-loss 1.0010 against 1.5000 uncalibrated; classwise, penalty 10 (1.0000)")
    losses[1] += 0.01
    assert simplest(names, losses, group)[0].method == "classwise"


@pytest.mark.parametrize("method", ["none", "temperature", "classwise"])
def test_the_method_can_be_set(method):
    logits, targets = shifted(300)
    held_out = HeldOut(list("abc"), "multiclass", targets, logits, logits, [None] * 300)
    found = fit_calibration(held_out, CalibrateParams(ood_method="energy", method=method))
    assert found.about["scaling"]["method"] == found.measured["scaling"]["method"] == method
    p = scale(logits, read_scaling(found.about), "multiclass")
    assert (thresholds.answers(p, thresholds.read_rule(found.about)) == logits.argmax(axis=1)).all()
    assert found.measured["log_loss_after"] == pytest.approx(metrics.log_loss(p, targets))


def test_costs_come_on_top_of_what_undoes_the_scaling():
    logits, targets = shifted(3000)
    held_out = HeldOut(list("abc"), "multiclass", targets, logits, logits, [None] * 3000)
    params = CalibrateParams(ood_method="energy", method="classwise", cost_false_negative={"b": 4.0})
    about = fit_calibration(held_out, params).about
    bias = np.array(list(about["scaling"]["bias"].values()))
    np.testing.assert_allclose(list(about["weights"].values()), np.exp(-bias) * [1, 4, 1])


def test_logits_that_are_not_finite_are_refused_by_every_method():
    logits = np.zeros((4, 2))
    logits[2, 0] = np.nan
    for method in ("auto", "none", "classwise"):
        with pytest.raises(DataError, match="1 of 4"):
            choose_scaling(logits, np.array([0, 1, 0, 1]), [None] * 4, method)


def test_large_splits_are_chosen_on_a_part_and_fitted_in_seconds():
    logits = RNG.normal(0, 3, (50_000, 100)).astype(np.float32)
    targets = drawn(probabilities(logits, 2.0, "multiclass"))
    group = np.arange(50_000) // 3
    rows = measured_rows(group, 100)
    assert 9_990 <= len(rows) <= 10_000
    assert not set(group[rows]) & set(np.delete(group, rows)), "groups stay whole"
    start = time.process_time()
    fit_scaling(logits[rows], targets[rows], Candidate("classwise", 1.0))
    assert time.process_time() - start < 30
