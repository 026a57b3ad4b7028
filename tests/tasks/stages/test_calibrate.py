"""Temperature, thresholds and out-of-distribution scores on small arrays, and the stage on real images."""

import json

import numpy as np
import pytest

from tasks.common.errors import DataError, ParamsError
from tasks.common.params import CalibrateParams
from tasks.dataset.decode import preprocess
from tasks.inference import thresholds
from tasks.inference.onnx_model import OnnxModel
from tasks.inference.scaling import read_scaling, scale
from tasks.inference.temperature import fit_temperature, probabilities
from tasks.inference.thresholds import Rule
from tasks.scoring import metrics
from tasks.stages.calibrate.calibration import HeldOut, fit_calibration
from tests.support.small_project import CLASSES, finished_project, image_bytes

RNG = np.random.default_rng(0)


def sampled(count: int, classes: int, temperature: float) -> tuple[np.ndarray, np.ndarray]:
    """(logits, targets): labels drawn from softmax(logits / temperature), so that is the right temperature."""
    logits = RNG.normal(0, 3, (count, classes))
    p = probabilities(logits, temperature, "multiclass")
    targets = (p.cumsum(axis=1) > RNG.random((count, 1))).argmax(axis=1)
    return logits, targets


# --- temperature


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5])
def test_known_temperature_is_found(temperature):
    logits, targets = sampled(4000, 5, temperature)
    assert fit_temperature(logits, targets) == pytest.approx(temperature, rel=0.08)


def test_known_multilabel_temperature_is_found():
    logits = RNG.normal(0, 3, (4000, 4))
    targets = (RNG.random(logits.shape) < 1 / (1 + np.exp(-logits / 2))).astype(np.float32)
    assert fit_temperature(logits, targets) == pytest.approx(2, rel=0.08)


def test_temperature_corrects_overconfidence_and_no_answer_changes():
    logits, targets = sampled(3000, 5, 3.0)
    temperature = fit_temperature(logits, targets)
    before, after = (probabilities(logits, t, "multiclass") for t in (1.0, temperature))
    assert metrics.ece(after, targets) < 0.2 * metrics.ece(before, targets)
    assert (before.argmax(axis=1) == after.argmax(axis=1)).all()


@pytest.mark.parametrize("count", [1, 5, 30])
def test_temperature_never_makes_the_calibration_split_worse(count):
    for _ in range(20):
        logits, targets = sampled(count, 3, RNG.choice([0.2, 1.0, 5.0]))
        found = fit_temperature(logits, targets)
        losses = [metrics.log_loss(probabilities(logits, t, "multiclass"), targets) for t in (1.0, found)]
        assert losses[1] <= losses[0] + 1e-9


def test_a_split_without_errors_does_not_ask_for_infinite_confidence():
    targets = np.arange(30) % 3
    temperature = fit_temperature(4 * np.eye(3)[targets], targets)
    assert 0.3 < temperature < 1


def test_logits_that_are_not_finite_are_refused():
    logits = np.zeros((4, 2))
    logits[2, 0] = np.nan
    with pytest.raises(DataError, match="1 of 4"):
        fit_temperature(logits, np.array([0, 1, 0, 1]))


# --- thresholds


def costly(classes: list[str], costs: dict[str, float]) -> Rule:
    return Rule("multiclass", thresholds.multiclass(classes, costs), thresholds.cost_weights(classes, costs))


def test_without_costs_answers_under_one_half_go_to_a_human():
    rule = costly(["a", "b", "c"], {})
    p = np.array([[0.6, 0.3, 0.1], [0.4, 0.35, 0.25], [0.05, 0.05, 0.9]])
    assert thresholds.answers(p, rule).tolist() == [0, 0, 2]
    assert thresholds.sure(p, rule).tolist() == [True, False, True]
    assert thresholds.answers(np.array([[0.25, 0.5, 0.5]]), rule).tolist() == [1]  # the first one on a tie


def test_a_costly_class_is_the_answer_before_it_is_the_most_probable():
    rule = costly(["benign", "malignant"], {"malignant": 9.0})
    assert rule.thresholds.tolist() == [0.5, 0.1]
    p = np.array([[0.95, 0.05], [0.85, 0.15], [0.2, 0.8]])
    assert thresholds.answers(p, rule).tolist() == [0, 1, 1]
    assert thresholds.sure(p, rule).tolist() == [True, False, True], "at 15 % it is the answer, and a person looks"
    assert thresholds.confidence(p, rule).tolist() == [0.95, 0.15, 0.8]


def test_answers_have_the_least_expected_cost():
    costs = np.array([1.0, 4.0, 2.0, 0.5])
    rule = costly(list("abcd"), dict(zip("abcd", costs.tolist(), strict=True)))
    p = RNG.dirichlet(np.ones(4), 500)
    of_answer = [(np.delete(p, j, axis=1) * np.delete(costs, j)).sum(axis=1) for j in range(4)]
    assert (thresholds.answers(p, rule) == np.argmin(of_answer, axis=0)).all()


def test_a_bundle_without_weights_answers_the_most_probable_class():
    about = {"task": "multiclass", "classes": ["benign", "malignant"], "thresholds": {"benign": 0.5, "malignant": 0.1}}
    p = np.array([[0.85, 0.15]])
    assert thresholds.answers(p, thresholds.read_rule(about)).tolist() == [0]
    assert thresholds.answers(p, thresholds.read_rule(about | {"weights": {"malignant": 9.0}})).tolist() == [1]


def test_nan_is_never_sure():
    p = np.full((1, 2), np.nan)
    for task in ("multiclass", "multilabel"):
        assert not thresholds.sure(p, Rule(task, np.array([0.5, 0.5]), np.ones(2))).any()


def test_cost_of_an_unknown_class_is_refused_with_its_name():
    with pytest.raises(ParamsError, match=r"Hut.*Hat"):
        thresholds.multiclass(["Hat", "Bag"], {"Hut": 2.0})


def test_multilabel_threshold_of_a_frequent_class_maximises_its_f1():
    p = RNG.random((2000, 2))
    targets = (p > np.array([0.3, 0.7])).astype(np.float32)
    found = thresholds.multilabel(p, targets, ["a", "b"], {})
    np.testing.assert_allclose(found, [0.3, 0.7], atol=0.02)


def test_multilabel_threshold_of_a_rare_class_stays_near_the_common_one():
    p = RNG.random((500, 2))
    targets = (p > 0.5).astype(np.float32)
    targets[:, 1] = 0
    targets[np.argmin(np.abs(p[:, 1] - 0.95)), 1] = 1  # one positive: its own best threshold is about 0.95
    p[p[:, 1] > 0.96, 1] = 0.1
    common, rare = thresholds.multilabel(p, targets, ["a", "b"], {})
    assert common == pytest.approx(0.5, abs=0.03)
    assert abs(rare - common) < 0.1
    assert thresholds.multilabel(p, targets, ["a", "b"], {"b": 4.0})[1] == pytest.approx(0.2)


def test_multilabel_confidence_is_that_of_the_least_certain_label():
    rule = Rule("multilabel", np.array([0.3, 0.5]), np.ones(2))
    p = np.array([[0.9, 0.2], [0.4, 0.1]])
    assert thresholds.answers(p, rule).tolist() == [[True, False], [True, False]]
    np.testing.assert_allclose(thresholds.confidence(p, rule), [0.8, 0.4])
    assert thresholds.sure(p, rule).tolist() == [True, False]


# --- the wanted coverage


@pytest.mark.parametrize("coverage", [0.7, 0.95, None])
def test_plausible_classes_have_the_coverage_that_params_ask_for(coverage):
    logits, targets = sampled(3000, 4, 1.0)
    held_out = HeldOut(["a", "b", "c", "d"], "multiclass", targets, logits, logits, [None] * 3000)
    params = CalibrateParams(ood_method="energy", coverage=coverage, cost_false_negative={"b": 3.0})
    fitted = fit_calibration(held_out, params)
    assert fitted.about["costs"] == {"b": 3.0}
    sets = fitted.about["conformal"]
    if coverage is None:
        assert sets is None
        assert "conformal" not in fitted.measured
        return
    p = scale(logits, read_scaling(fitted.about), "multiclass")
    there = p >= np.array(list(sets["bounds"].values()))
    reached = [there[targets == k, k].mean() for k in range(4)]
    np.testing.assert_allclose(reached, coverage, atol=0.003)
    assert sets["too_few"] == []


# --- the stage


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_stage_exports_what_it_calibrated(task):
    root = finished_project(task)
    found = json.loads((root / "artifacts/calibrate/calibration.json").read_text())
    assert found["classes"] == list(found["thresholds"]) == CLASSES
    model = OnnxModel(root / "artifacts/calibrate/model.onnx")
    out = model(np.stack([preprocess(data, model.size, "squash", 10**6) for data in image_bytes("Bag", 3)]))
    expected = scale(out.logits, read_scaling(found), task)
    np.testing.assert_allclose(out.probabilities, expected, atol=1e-5)
    measured = json.loads((root / "metrics/calibrate.json").read_text())
    assert measured["images"] == 48
    assert measured["log_loss_after"] <= measured["log_loss_before"]
    assert measured["parity"] <= 1e-4
    assert found["conformal"]["coverage"] == measured["conformal"]["coverage"] == 0.9
    assert list(found["conformal"]["bounds"]) == CLASSES
    assert 1 <= measured["conformal"]["set_length"] <= 3 or task == "multilabel"
    assert measured["ood"]["flagged"]["flat"] > 0.9
    assert 0 <= measured["ood"]["flagged"]["noise"] <= 1


def test_costs_move_the_answers_of_the_calibrated_model():
    logits, targets = sampled(300, 3, 1.0)
    held_out = HeldOut(list("abc"), "multiclass", targets, logits, logits, [None] * 300)
    plain = fit_calibration(held_out, CalibrateParams(ood_method="energy"))
    costs = {"b": 1e30}
    costly = fit_calibration(held_out, CalibrateParams(ood_method="energy", cost_false_negative=costs))
    p = np.array([[0.7, 0.2, 0.1]])
    said = [thresholds.answers(p, thresholds.read_rule(found.about)).tolist() for found in (plain, costly)]
    assert said == [[0], [1]]
    assert costly.measured["skill"]["value"] == pytest.approx(1 / 3), "skill is of the answers: always b"
    assert plain.measured["skill"]["value"] > 0.5
