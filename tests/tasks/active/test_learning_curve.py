"""What more labels would bring: nested parts, the power law, its interval, when it is enough."""

import numpy as np
import pytest

from tasks.active.learning_curve import Gain, balanced, class_gains, enough, expected_gain, forecast, measure

PARTS = np.array([1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0])


def blobs(count: int, apart: float, classes: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features, labels and groups of `count` images of classes that lie `apart`."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(count) % classes)
    centers = np.random.default_rng(9).normal(size=(classes, 24))
    return (apart * centers[y] + rng.normal(size=(count, 24))).astype(np.float32), y, np.arange(count).astype(str)


def test_more_labels_of_a_hard_problem_help_and_are_predicted():
    x, y, groups = blobs(4800, 0.35)
    quarter = np.arange(1200)
    curve = measure(x[quarter], y[quarter], groups[quarter], 3)
    assert (np.diff(curve.errors.mean(axis=0)) < 0).all()
    assert curve.labels == pytest.approx(1200 * 2 / 3 * PARTS, rel=0.02)
    assert curve.support.tolist() == np.bincount(y[quarter]).tolist()
    gain = expected_gain(curve, 3600)
    now, then = curve.errors.mean(axis=0)[-1], measure(x, y, groups, 3).errors.mean(axis=0)[-1]
    assert gain.low - 0.01 <= now - then <= gain.high + 0.01
    assert all(of_class.expected > 0 for of_class in class_gains(curve, 3600))


def test_what_is_learned_brings_nothing_more_and_says_so():
    curve = measure(*blobs(900, 6.0), 3)
    assert curve.errors.max() == 0
    gain = expected_gain(curve, 100)
    assert enough(gain, 0.001)
    assert not enough(Gain(0.0, 0.0, 0.002), 0.001)


def test_the_interval_holds_the_truth():
    """Nominal 90 %: 200 power laws of any shape, measured in three folds that differ in level."""
    rng, hits = np.random.default_rng(0), 0
    for _ in range(200):
        rate, floor, scale = rng.uniform(0.1, 1.0), rng.uniform(0, 0.3), rng.uniform(0.02, 0.2)
        labels = 2000 * PARTS * 2 / 3

        def error(n, rate=rate, floor=floor, scale=scale):
            return floor + scale * (n / 2000) ** -rate

        points = error(labels) + rng.normal(size=(3, 1)) * 0.02 + rng.normal(size=(3, 5)) * 0.01
        gain = forecast(labels, points, 2000, 2000)
        hits += gain.low <= error(2000) - error(4000) <= gain.high
    assert hits >= 175


def test_groups_are_not_divided_and_parts_are_nested(monkeypatch):
    from tasks.active import learning_curve

    x, y, _ = blobs(300, 1.0)
    groups = (np.arange(300) // 10).astype(str)
    seen = {}
    fit_many = learning_curve.probe.fit_many

    def spy(x, y, classes, weights):
        seen["weights"] = weights
        return fit_many(x, y, classes, weights)

    monkeypatch.setattr(learning_curve.probe, "fit_many", spy)
    measure(x, y, groups, 3)
    used = seen["weights"].reshape(3, -1, 300) > 0
    assert (used[:, :-1] <= used[:, 1:]).all()
    whole = used[:, -1].reshape(3, 30, 10)
    assert (whole.all(axis=2) | ~whole.any(axis=2)).all()  # no group in training and test


def test_multilabel_and_classes_that_a_fold_lacks():
    x, y, groups = blobs(600, 1.0)
    several = np.stack([y == 0, y != 1, y == 2], axis=1).astype(np.float32)
    assert expected_gain(measure(x, several, groups, 3), 100).high <= 1
    y[y == 2] = 0
    y[:1] = 2
    rare = measure(x, y, groups, 3)
    assert rare.support.tolist()[2] == 1
    assert class_gains(rare, 100)[2] is None


def test_too_few_labels_are_named():
    with pytest.raises(ValueError, match="6 labelled images of 3 classes: too few for a learning curve"):
        measure(*blobs(6, 1.0), 3)


def test_every_class_has_the_same_weight():
    members = np.array([[1, 0], [1, 0], [1, 0], [0, 1], [0, 0]], bool)
    weight = balanced(members)
    assert weight[:3].sum() == pytest.approx(weight[3])
    assert weight[4] == 1
