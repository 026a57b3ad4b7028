"""Which part of a split class an image probably is."""

import numpy as np

from tasks.labels.parts import likeliest_parts


def two_kinds(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    kind = np.arange(count) % 2
    return np.eye(6)[kind] + rng.normal(0, 0.15, (count, 6)), kind


def test_labelled_examples_decide_and_the_likeliest_comes_first():
    x, kind = two_kinds(200, 0)
    examples, part = two_kinds(20, 1)
    x[0] = np.eye(6)[0] + np.eye(6)[1]  # between both
    number, confidence, order = likeliest_parts(x, examples, part, 2)
    assert (number[1:] == kind[1:]).mean() > 0.97
    assert np.all(np.diff(confidence[order]) <= 0)
    assert list(order).index(0) > 150


def test_without_examples_of_two_parts_clusters_take_turns():
    x, kind = two_kinds(60, 0)
    number, _, order = likeliest_parts(x, x[:3], np.zeros(3, int), 2)
    same = (number == kind).mean()
    assert max(same, 1 - same) > 0.95
    assert set(number[order[:2]]) == {0, 1}
    assert sorted(order) == list(range(60))


def test_fewer_images_than_parts_are_one_each():
    number, _, order = likeliest_parts(np.eye(2), np.empty((0, 2)), np.empty(0, int), 3)
    assert number.tolist() == [0, 1]
    assert sorted(order) == [0, 1]
