"""The cut between right and wrong labels: noise by class, noise by image, the confident joint that both start from."""

import numpy as np
import pytest

from tasks.models import probe
from tasks.models.probe import softmax
from tasks.stages.clean import image_noise, joint
from tasks.stages.clean.cut import LEAST, best_cut, find_wrong
from tasks.stages.clean.image_noise import confident_table, fit_either_noise
from tasks.stages.clean.joint import confident_counts, confident_joint
from tasks.stages.clean.label_noise import smooth


def labels(kind: str, count: int = 3000, classes: int = 5):
    """(given, true, out-of-fold probabilities of a probe) of overlapping classes.

    "class": a quarter of each class is labelled as the next one. "image": people err where a probe doubts.
    """
    rng = np.random.default_rng(0)
    true = rng.integers(0, classes, count)
    x = 1.1 * rng.normal(size=(classes, 16))[true] + rng.normal(size=(count, 16))
    if kind == "class":
        given = np.where(rng.random(count) < 0.25, (true + 1) % classes, true)
    else:
        likely = probe.fit(x, true, classes, l2=0.01).probabilities(x)
        likely[np.arange(count), true] = 0
        doubt = likely.sum(axis=1)
        errs = rng.random(count) < doubt**0.4 / (doubt**0.4 + 1)
        given = np.where(errs, likely.argmax(axis=1), true)
    fold = np.arange(count) % 5
    probes = probe.fit_many(x, given, classes, fold != np.arange(5)[:, None], l2=0.1)
    return given, true, probe.softmax(probe.select_logits(probes, x, fold)).astype(float)


def f1(found: np.ndarray, wrong: np.ndarray) -> float:
    return 2 * (found & wrong).sum() / (found.sum() + wrong.sum())


@pytest.mark.parametrize("kind", ["class", "image"])
def test_the_cut_is_near_the_best_and_not_below_the_better_peer(kind):
    from cleanlab.filter import find_label_issues

    given, true, probabilities = labels(kind)
    wrong = given != true
    differs = probabilities.argmax(axis=1) != given
    peers = [f1(find_label_issues(given, probabilities, n_jobs=1), wrong), f1(differs, wrong)]
    found = find_wrong(given, probabilities)
    doubt = fit_either_noise(given, probabilities).wrong(given, probabilities)
    order = np.argsort(-doubt)
    best = max(f1(np.isin(np.arange(len(given)), order[:k]), wrong) for k in range(100, 2500, 50))
    print(f"{kind}: F1 {f1(found, wrong):.3f}, best cut {best:.3f}, cleanlab's default and argmax {peers}")
    assert f1(found, wrong) >= max(peers) - 0.005
    assert f1(found, wrong) >= best - 0.05


def test_the_labels_say_whether_errors_depend_on_the_image():
    assert fit_either_noise(*labels("image")[::2]).weight > 0.99
    rng = np.random.default_rng(0)
    true = rng.integers(0, 4, 3000)
    likely = softmax(rng.exponential(4, (3000, 1)) * np.eye(4)[true] + rng.normal(size=(3000, 4)))
    given = np.where(rng.random(3000) < 0.2, (true + 1) % 4, true)
    assert fit_either_noise(given, likely).weight < 0.1


def test_the_gradient_is_that_of_the_likelihood():
    given, _, probabilities = labels("image", count=200)
    table, log = confident_table(given, probabilities), np.log(probabilities).T
    at = np.array([0.3, 0.2, 0.3, 0.8, 0.4, 0.1, -0.2, 0.3, 0, 0])
    _, gradient = image_noise._likelihood(at, log, given, table)
    for place, step in enumerate(1e-5 * np.eye(len(at))):
        up, down = (image_noise._likelihood(at + sign * step, log, given, table)[0] for sign in (1, -1))
        assert gradient[place] == pytest.approx((up - down) / 2e-5, abs=1e-6)


def test_parts_do_not_change_a_result(monkeypatch):
    given, _, probabilities = labels("class", count=1000)
    whole = confident_table(given, probabilities), find_wrong(given, probabilities)
    exact = confident_joint(given, probabilities)
    np.testing.assert_allclose(whole[0], (table := smooth(exact, np.bincount(given))) / table.sum(axis=0), atol=0.003)
    monkeypatch.setattr(joint, "ROWS", 400)  # 100 rows at once
    np.testing.assert_allclose(confident_table(given, probabilities), whole[0])
    np.testing.assert_array_equal(find_wrong(given, probabilities), whole[1])


def test_the_cut_falls_with_the_f1_that_can_be_reached_but_not_below_its_least():
    assert best_cut(np.array([1.0, 1, 0, 0])) == 0.5
    assert best_cut(np.array([0.8, 0.8, 0.1, 0.1])) == pytest.approx(1.6 / 3.8)
    assert best_cut(np.full(10, 0.01)) == LEAST
    assert best_cut(np.array([])) == LEAST


def drawn(seed: int, classes: int, count: int, kind: type, sure: float) -> tuple[np.ndarray, np.ndarray]:
    """(given labels, probabilities): some labels are wrong, small classes are rare."""
    rng = np.random.default_rng(seed)
    true = np.minimum(rng.geometric(0.4, count) - 1, classes - 1)
    true[:classes] = np.arange(classes)
    given = np.where(rng.random(count) < 0.2, rng.integers(0, classes, count), true)
    given[:classes] = np.arange(classes)
    return given, softmax(sure * np.eye(classes)[true] + rng.normal(size=(count, classes))).astype(kind)


@pytest.mark.parametrize("classes", [2, 3, 10, 47])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_it_is_cleanlabs_joint(classes, kind, monkeypatch):
    from cleanlab.count import compute_confident_joint, estimate_joint

    for seed, (count, sure) in enumerate([(60, 0.5), (500, 2.0), (3000, 4.0)]):
        given, probabilities = drawn(seed, classes, count, kind, sure)
        counts = compute_confident_joint(given, probabilities, calibrate=False)
        np.testing.assert_array_equal(confident_counts(given, probabilities), counts)
        whole = compute_confident_joint(given, probabilities, calibrate=True)
        expected = estimate_joint(given, probabilities, confident_joint=whole)
        np.testing.assert_allclose(confident_joint(given, probabilities), expected, rtol=1e-12)
        monkeypatch.setattr(joint, "ROWS", 7 * classes)
        np.testing.assert_allclose(confident_joint(given, probabilities), expected, rtol=1e-12)
        monkeypatch.undo()


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_a_class_that_its_own_images_do_not_look_like_is_cleanlabs_too(kind):
    from cleanlab.count import compute_confident_joint

    rng = np.random.default_rng(0)
    first = rng.uniform(0.3, 0.7, 300)
    probabilities = np.column_stack([first, 1 - first, np.full(300, 1e-9)]).astype(kind)
    given = rng.integers(0, 2, 300)
    given[:3] = 2
    expected = compute_confident_joint(given, probabilities, calibrate=False)
    np.testing.assert_array_equal(confident_counts(given, probabilities), expected)
    assert expected[:, 2].tolist() == [0, 0, 1]


def test_nothing_looks_like_a_class_that_has_no_label():
    given, probabilities = drawn(0, 4, 200, np.float64, 2.0)
    kept = given != 3
    counts = confident_counts(given[kept], probabilities[kept])
    assert counts[:, 3].tolist() == [0, 0, 0, 1], "1 on the diagonal, as for any class"
