"""Sets of plausible classes on small arrays: which bound a class gets, and whether each class reaches the coverage."""

import numpy as np
import pytest

from tasks.inference import conformal


def test_the_bound_is_a_rank_among_the_class_own_images():
    own = np.array([0.9, 0.1, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.95])  # ten images of the first class
    p = np.stack([own, 1 - own], axis=1)
    bounds = conformal.fit(p, np.zeros(10, int), 0.8)
    assert bounds.values[0] == pytest.approx(0.2, rel=2e-4), "the second smallest: floor(0.2 x 11) is 2"
    assert bounds.own.tolist() == [True, False]


@pytest.mark.parametrize(("images", "coverage", "expected"), [(8, 0.9, 0), (9, 0.9, 1), (19, 0.95, 1), (50, 0.9, 5)])
def test_a_rank_needs_enough_images_for_the_coverage(images, coverage, expected):
    assert conformal.rank(images, coverage) == expected


def test_a_class_with_too_few_images_gets_the_lowest_bound_and_none_above_its_own():
    p = np.zeros((29, 4))
    targets = np.repeat([0, 1, 2], [9, 18, 2])
    p[:9, 0] = np.linspace(0.5, 0.9, 9)
    p[9:27, 1] = np.linspace(0.3, 0.8, 18)
    p[27:, 2] = 0.2, 0.7
    values, own = conformal.fit(p, targets, 0.9)
    assert own.tolist() == [True, True, False, False]
    assert values == pytest.approx([0.5, 0.3, 0.2, 0.3], rel=2e-4), "class 3 has no image at all"


def test_where_every_class_is_too_rare_they_share_a_bound():
    rng = np.random.default_rng(0)
    targets = np.arange(40) % 10
    p = rng.dirichlet(np.ones(10), 40)
    p[np.arange(40), targets] += 0.5
    bounds = conformal.fit(p, targets, 0.9)
    assert not bounds.own.any()
    assert conformal.measure(p >= bounds.values, targets).covered >= 0.9


def softmax_world(rng, shares, n):
    """(probabilities, targets): classes of these `shares`, the last one as hard to tell as the first one is easy."""
    k = len(shares)
    targets = rng.choice(k, n, p=shares)
    logits = rng.normal(0, 1, (n, k))
    logits[np.arange(n), targets] += np.linspace(4, 1, k)[targets]
    p = np.exp(logits)
    return p / p.sum(axis=1, keepdims=True), targets


def test_every_class_reaches_the_coverage_where_one_bound_for_all_does_not():
    rng = np.random.default_rng(0)
    shares = np.array([0.6, 0.2, 0.15, 0.05])
    mine, common = [], []
    for _ in range(60):
        p, targets = softmax_world(rng, shares, 1200)
        fresh, truth = softmax_world(rng, shares, 1200)
        bounds = conformal.fit(p, targets, 0.9).values
        mine.append(conformal.measure(fresh >= bounds, truth).coverage)
        one = np.sort(p[np.arange(1200), targets])[conformal.rank(1200, 0.9) - 1]
        common.append(conformal.measure(fresh >= one, truth).coverage)
    np.testing.assert_allclose(np.mean(mine, axis=0), 0.9, atol=0.015)
    assert np.mean(common, axis=0)[-1] < 0.8


def test_of_the_images_with_a_label_the_wanted_share_has_it_in_its_set():
    rng = np.random.default_rng(1)
    targets = (rng.random((4000, 3)) < [0.5, 0.2, 0.02]).astype(np.float32)
    p = 1 / (1 + np.exp(-rng.normal(2 * targets - 1, 1)))
    bounds = conformal.fit(p[:2000], targets[:2000], 0.9)
    found = conformal.measure(p[2000:] >= bounds.values, targets[2000:])
    assert bounds.own.all()
    assert (found.coverage > 0.8).all()
    assert found.coverage[:2] == pytest.approx([0.9, 0.9], abs=0.03)


def test_the_answer_is_always_plausible_and_the_likeliest_comes_first():
    p = np.array([[0.2, 0.5, 0.3], [0.4, 0.3, 0.3]])
    sets = conformal.plausible(p, np.array([1, 0]), np.array([0.9, 0.9, 0.3]))
    assert sets.tolist() == [[False, True, True], [True, False, True]]
    assert conformal.likeliest_first("abc", p[0], sets[0]) == ("b", "c")
    assert conformal.likeliest_first("abc", p[1], sets[1]) == ("a", "c")


def test_figures_of_sets_by_hand():
    sets = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0], [1, 1, 1]], bool)
    found = conformal.measure(sets, np.array([0, 0, 0, 1]))
    np.testing.assert_array_equal(found.coverage, [2 / 3, 1, np.nan])
    np.testing.assert_array_equal(found.length, [4 / 3, 3, np.nan])
    assert found[2:] == (0.75, 1.75, 0.5)
