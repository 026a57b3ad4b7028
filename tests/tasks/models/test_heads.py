"""Each stage-2 method against values worked out by hand, and on a small long tail."""

import numpy as np
import pytest

from tasks.models import probe
from tasks.models.head import Head
from tasks.models.heads import gaussian, moved, retrained
from tasks.models.heads.methods import METHODS, MULTILABEL, Given, methods_of


def long_tailed(counts: tuple[int, ...], seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = np.repeat(np.arange(len(counts)), counts)
    return (np.eye(8)[y] * 2 + rng.normal(size=(len(y), 8))).astype(np.float32), y


@pytest.mark.parametrize("name", [name for name in METHODS if name != "stage1"])
def test_each_method_helps_the_rare_class(name):
    x, y = long_tailed((500, 60, 15), seed=0)
    held_x, held_y = long_tailed((300, 300, 300), seed=1)
    natural = probe.fit(x, y, 3, l2=1e-3)
    own = Head(natural.weight, natural.bias)

    def recall(head: Head) -> np.ndarray:
        right = head.logits(held_x).argmax(axis=1) == held_y
        return np.array([right[held_y == k].mean() for k in range(3)])

    heads = METHODS[name](Given(x, y, own))
    best = max((recall(head) for head in heads), key=np.mean)
    assert best[2] > recall(own)[2] + 0.08
    assert best.mean() > recall(own).mean() + 0.03
    assert len({head.setting for head in heads}) == len(heads)


def test_logit_adjustment_takes_part_of_the_log_share():
    own = Head(np.ones((3, 2), np.float32), np.zeros(3, np.float32))
    head = moved.logit_adjusted(own, np.array([90, 9, 1]), 0.5)
    np.testing.assert_allclose(head.bias, -0.5 * np.log([0.9, 0.09, 0.01]), rtol=1e-6)


def test_learned_factors_reach_the_least_weighted_loss():
    """One feature, two classes: logits (x, -x). Right for 3 of 4 in each class, so p = .75 and factor = log(3) / 2."""
    own = Head(np.array([[1.0], [-1.0]], np.float32), np.zeros(2, np.float32))
    x, y = np.array([[1.0]] * 3 + [[-1.0]] + [[-1.0]] * 3 + [[1.0]], np.float32), np.repeat([0, 1], 4)
    head = moved.rescaled(own, own.logits(x), y, np.ones(8), l2=0.0)
    np.testing.assert_allclose(head.weight[:, 0], [np.log(3) / 2, -np.log(3) / 2], rtol=1e-3)
    strong = moved.rescaled(own, own.logits(x), y, np.ones(8), l2=1e6)
    np.testing.assert_allclose(strong.weight, own.weight, rtol=1e-3)


def test_gaussian_head_is_the_discriminant_of_its_moments():
    """Means (2, 0) and (0, 1), covariance diag(1, 4): weights are mean / variance, bias -mean^2 / variance / 2."""
    found = gaussian.Moments(np.array([[2.0, 0], [0, 1]]), np.array([5, 5]), np.diag([1.0, 4.0]))
    head = gaussian.gaussian(found, 0.0)
    np.testing.assert_allclose(head.weight, [[2, 0], [0, 0.25]], atol=1e-6)
    np.testing.assert_allclose(head.bias, [-2, -0.125], atol=1e-6)
    sphere = gaussian.gaussian(found, 1.0)  # the mean variance, 2.5, everywhere
    np.testing.assert_allclose(sphere.weight, [[0.8, 0], [0, 0.4]], atol=1e-6)


def test_moments_are_those_within_classes_and_streaming_changes_nothing(monkeypatch):
    x, y = long_tailed((30, 7), seed=0)
    found = gaussian.moments(x, y, 3)
    np.testing.assert_allclose(found.means[1], x[y == 1].mean(axis=0), atol=1e-5)
    within = np.concatenate([x[y == k] - x[y == k].mean(axis=0) for k in (0, 1)])
    np.testing.assert_allclose(found.covariance, within.T @ within / 37, atol=1e-4)
    monkeypatch.setattr(gaussian, "ROWS", 5)
    np.testing.assert_allclose(gaussian.moments(x, y, 3).covariance, found.covariance, atol=1e-4)
    assert gaussian.gaussian(found, 0.5).logits(x).argmax(axis=1).max() < 2  # class 2 has no sample: never an answer


def test_effective_numbers_are_those_of_cui():
    y = np.array([0] * 3 + [1])
    weights = retrained.effective_weights(y, 2, beta=0.5)  # effective numbers 1.75 and 1
    np.testing.assert_allclose(weights, [1 / 1.75] * 3 + [1])


def test_no_class_of_max_norm_exceeds_its_bound_and_a_loose_one_is_the_optimum():
    x, y = long_tailed((200, 40, 20), seed=0)
    deviation = probe.moments(x)[1]
    tight, loose = retrained.max_norm(x, y, 3, bounds=(0.3, 100.0), iterations=300)
    assert np.linalg.norm(tight.weight * deviation, axis=1) == pytest.approx(0.3, rel=1e-4)
    weight = retrained.effective_weights(y, 3)
    optimum = probe.fit(x, y, 3, sample_weight=weight, l2=retrained.MAX_NORM_L2, iterations=300)
    np.testing.assert_allclose(loose.weight, optimum.weight, atol=0.02)
    alone = retrained.max_norm(x, y, 3, bounds=(0.3,), iterations=300)[0]
    np.testing.assert_allclose(alone.weight, tight.weight, atol=1e-4)


def test_smote_draws_between_neighbours_of_one_class_up_to_the_median():
    x = np.array([[0, 0], [1, 0], [10, 10], [10, 11], [20, 0]] + [[5, y] for y in range(6)], np.float32)
    y = np.array([0, 0, 1, 1, 2] + [3] * 6)
    new_x, new_y = retrained.smote(x, y, 5, seed=0)  # class 4 has no sample; the median of 2, 2, 1, 6 is 2
    assert new_y.tolist() == [2]
    np.testing.assert_array_equal(new_x, [[20, 0]])  # one sample has no neighbour: a copy
    more_x, more_y = retrained.smote(np.concatenate([x, x[5:] + 1]), np.concatenate([y, [2] * 3 + [1] * 3]), 5, seed=0)
    zero = more_x[more_y == 0]
    assert len(zero) == 2
    assert np.all(zero[:, 1] == 0)
    assert np.all((zero[:, 0] >= 0) & (zero[:, 0] <= 1))


def test_subsets_grow_from_balanced_to_nearly_natural():
    y = np.repeat([0, 1, 2], [100, 30, 4])
    weights = retrained.subset_weights(y, 3, seed=0)
    counts = np.array([np.bincount(y, row, 3) for row in weights])
    assert counts[0].tolist() == [4, 4, 4]
    assert np.all(np.diff(counts[:, 0]) > 0)
    assert np.all(counts[:, 2] == 4)
    assert counts[-1, 0] < 100
    drawn = [set(np.flatnonzero(row[:100])) for row in weights[:2]]
    assert not drawn[0] <= drawn[1]  # others each time


def test_the_soup_is_the_mean_of_its_heads():
    x, y = long_tailed((60, 20, 6), seed=0)
    weights = retrained.subset_weights(y, 3, seed=0)
    heads = probe.fit_many(x, y, 3, weights, l2=retrained.SOUP_L2S[0], iterations=50)
    soup = retrained.averaged(x, y, 3, seed=0, iterations=50)[0]
    np.testing.assert_allclose(soup.weight, np.mean([head.weight for head in heads], axis=0), atol=1e-6)


def test_a_head_between_two_has_logits_between():
    a, b = (Head(np.full((2, 3), value, np.float32), np.zeros(2, np.float32)) for value in (1, 3))
    assert moved.between(a, b, 0.25).weight[0, 0] == 1.5


def test_labels_that_do_not_compete_have_two_methods():
    assert methods_of("multilabel") == MULTILABEL
    assert set(methods_of("multiclass")) == set(METHODS)
