"""Top-k, kappa, ROC area and cost by hand, and against scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score, roc_auc_score, top_k_accuracy_score

from tasks.scoring.agreement import kappa, mean_cost, roc_area, top_k

RNG = np.random.default_rng(0)
TARGETS = RNG.integers(0, 7, 500)
P = RNG.dirichlet(np.ones(7), 500) + 0.3 * np.eye(7)[TARGETS] * RNG.random((500, 1))


def test_top_k_by_hand():
    p = np.array([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7], [0.4, 0.4, 0.2]])
    assert top_k(np.array([1, 0, 2]), p, 1) == 0
    assert top_k(np.array([1, 0, 2]), p, 2) == pytest.approx(1 / 3)
    assert top_k(np.array([1, 0, 2]), p, 3) == 1
    assert top_k(np.array([0]), p[2:], 1) == 0, "two classes tie for one place"


def test_kappa_by_hand():
    """Cohen's own way: 20 + 15 of 50 agree, chance would give 0.5."""
    targets = np.repeat([0, 0, 1, 1], [20, 5, 10, 15])
    predicted = np.repeat([0, 1, 0, 1], [20, 5, 10, 15])
    assert kappa(targets, predicted, 2) == pytest.approx(0.4)
    assert kappa(targets, targets, 2) == 1
    assert np.isnan(kappa(np.zeros(3, int), np.zeros(3, int), 2))


def test_roc_area_by_hand():
    p = np.array([0.9, 0.8, 0.5, 0.5, 0.1])
    truth = np.array([1, 0, 1, 0, 0], np.float32)
    both = np.stack([truth, np.ones(5, np.float32)], axis=1)
    found = roc_area(both, np.stack([p, p], axis=1))
    assert found[0] == pytest.approx((3 + 0 + 1 + 0.5) / 6), "of six pairs: 4 right, half of one tie"
    assert np.isnan(found[1]), "every image has the second label"


def test_cost_by_hand():
    costs = np.array([9.0, 1.0, 1.0])
    assert mean_cost(np.array([0, 0, 1, 2]), np.array([0, 1, 0, 2]), costs) == pytest.approx((9 + 1) / 4)
    labels = np.array([[1, 0, 1], [0, 0, 1]], np.float32)
    said = np.array([[False, True, True], [False, False, True]])
    assert mean_cost(labels, said, costs) == pytest.approx((9 + 1) / 2)


def test_scikit_learn_agrees():
    assert top_k(TARGETS, P, 5) == pytest.approx(top_k_accuracy_score(TARGETS, P, k=5))
    assert kappa(TARGETS, P.argmax(axis=1), 7) == pytest.approx(cohen_kappa_score(TARGETS, P.argmax(axis=1)))
    coarse = P.round(1)  # with many ties
    np.testing.assert_allclose(roc_area(TARGETS, coarse), roc_auc_score(np.eye(7)[TARGETS], coarse, average=None))
