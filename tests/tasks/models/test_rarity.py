"""Advice on classes that are very rare or come from one place, and an anomaly score for the rarest one."""

import numpy as np

from tasks.models.heads import anomaly, rarity


def test_imbalance_is_that_of_classes_with_images():
    assert rarity.imbalance(np.array([300, 0, 2, 40])) == (150.0, 2)


def test_a_rare_class_of_one_source_is_named_and_a_common_source_is_no_reason():
    y = np.repeat([0, 1, 2], [200, 8, 8])
    sources = ["a", "b"] * 100 + ["a"] * 8 + ["a", "b"] * 4
    (one,) = rarity.in_one_place(y, ["x", "y", "z"], {"source": sources, "day": [None] * 216})
    assert (one.name, one.what, one.value, one.images) == ("y", "source", "a", 8)
    (said,) = rarity.sentences(25.0, "y", 8, [one])
    assert "one source, a" in said
    mostly = ["a"] * 195 + ["b"] * 5 + ["a"] * 16  # all classes lie there: no reason
    assert rarity.in_one_place(y, ["x", "y", "z"], {"source": mostly}) == []


def test_above_a_hundred_to_one_there_is_a_warning():
    assert rarity.sentences(100.0, "y", 8, []) == []
    assert "101 times" in rarity.sentences(101.0, "y", 8, [])[0]


def test_nearest_neighbours_by_hand():
    bank = anomaly.Bank(np.array([[1.0, 0]], np.float32), np.array([[0.0, 1]], np.float32))
    x = np.array([[3.0, 0], [0, 2], [1, 1]], np.float32)
    np.testing.assert_allclose(anomaly.knn(x, bank), [1, -1, 0], atol=1e-6)


def test_scores_are_compared_with_the_classifiers_own():
    rng = np.random.default_rng(0)
    y, held_y = np.repeat([0, 1, 2], [300, 300, 3]), np.repeat([0, 1, 2], [50, 50, 10])
    x, held_x = (np.eye(6)[k] * 4 + rng.normal(size=(len(k), 6)) for k in (y, held_y))
    blind = np.zeros((110, 3), np.float32)
    found = anomaly.compare((x, y), (held_x, held_y), blind, 2)
    assert found.aucs["classifier"] == 0.5
    assert min(found.aucs["knn"], found.aucs["mahalanobis"]) > 0.9
    assert found.best in ("knn", "mahalanobis")
    assert "10 calibration images" in found.sentence("rare")
    assert anomaly.compare((x, y), (held_x[:100], held_y[:100]), blind[:100], 2) is None
