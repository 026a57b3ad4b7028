"""Skill against chance: an interval that few images, few groups and alike images do not fool."""

import numpy as np
import pytest
from scipy.stats import binomtest

from tasks.scoring.groups import group_numbers
from tasks.scoring.skill import exact_interval, measure_skill


def answers(targets: np.ndarray, right: np.ndarray, classes: int) -> np.ndarray:
    return np.where(right, targets, (targets + 1) % classes)


def tracks(rng, classes: int, groups: int, images: int, share: float):
    """(skill) of groups that show one class each and whose images are all right or all wrong."""
    targets = np.repeat(np.arange(groups) % classes, images)
    right = np.repeat(rng.random(groups) < share, images)
    names = [str(name) for name in np.repeat(np.arange(groups), images)]
    return measure_skill(targets, answers(targets, right, classes), classes, names)


def single(rng, classes: int, images: int, share: float):
    targets = rng.integers(classes, size=images)
    right = rng.random(images) < share
    return measure_skill(targets, answers(targets, right, classes), classes, [None] * images)


def cameras(rng, classes: int, groups: int, images: int):
    """Each camera makes the model prefer one answer: no skill, and answers that are alike within a camera."""
    targets = rng.integers(classes, size=groups * images)
    liked = np.repeat(rng.integers(classes, size=groups), images)
    predicted = np.where(rng.random(len(targets)) < 0.6, liked, rng.integers(classes, size=len(targets)))
    return measure_skill(targets, predicted, classes, [str(name) for name in np.repeat(np.arange(groups), images)])


@pytest.mark.parametrize("classes", [2, 5, 20])
@pytest.mark.parametrize("groups", [3, 8, 25])
def test_chance_is_taken_for_skill_no_more_often_than_the_interval_says(classes, groups):
    rng = np.random.default_rng(0)
    kinds = {
        "tracks": lambda: tracks(rng, classes, groups, 6, 1 / classes),
        "single": lambda: single(rng, classes, 3 * groups, 1 / classes),
        "cameras": lambda: cameras(rng, classes, groups, 20),
    }
    for name, draw in kinds.items():
        shown = np.mean([draw().shown for _ in range(300)])
        assert shown <= 0.025 + 3 * np.sqrt(0.025 * 0.975 / 300), name


def test_the_interval_covers_the_truth():
    rng = np.random.default_rng(1)
    for draw in (lambda: tracks(rng, 4, 16, 6, 0.6), lambda: single(rng, 4, 40, 0.6)):
        found = [draw() for _ in range(300)]
        assert np.mean([one.low <= 0.6 <= one.high for one in found]) > 0.9


def test_skill_is_seen_in_a_few_dozen_images():
    rng = np.random.default_rng(2)
    assert np.mean([single(rng, 5, 30, 0.6).shown for _ in range(100)]) > 0.9
    assert np.mean([tracks(rng, 5, 30, 4, 0.6).shown for _ in range(100)]) > 0.9


def test_images_of_one_object_are_one_observation():
    targets = np.repeat([0, 1, 2, 3], 10)
    right = np.arange(40) % 10 < 7
    alone = measure_skill(targets, answers(targets, right, 4), 4, [None] * 40)
    assert alone.groups == 40
    whole = np.repeat([True, True, True, False], 10)
    grouped = measure_skill(targets, answers(targets, whole, 4), 4, np.repeat(["a", "b", "c", "d"], 10).tolist())
    assert alone.shown
    assert not grouped.shown
    assert grouped.value > alone.value
    assert grouped.groups == 4


def test_one_group_proves_nothing_and_two_right_cameras_prove_more_than_two_right_objects():
    targets = np.arange(40) % 2
    assert measure_skill(targets, targets, 2, ["one"] * 40).low == 0
    cameras = measure_skill(targets, targets, 2, np.repeat(["a", "b"], 20).tolist())
    objects = measure_skill(np.sort(targets), np.sort(targets), 2, np.repeat(["a", "b"], 20).tolist())
    assert cameras.low > objects.low


def test_chance_is_that_of_the_best_constant_answer():
    targets = np.array([0, 0, 0, 2, 2])
    assert measure_skill(targets, targets, 5, [None] * 5).chance == 0.5  # two classes have images
    labels = np.eye(3)[[0, 1, 2, 0, 1, 2]]
    constant = measure_skill(labels, np.ones((6, 3), bool), 3, [None] * 6)
    assert constant.value == constant.chance == 0.5
    assert measure_skill(labels, labels.astype(bool), 3, [None] * 6).value == pytest.approx(1)


def test_the_floor_is_a_half_and_more_where_a_half_is_chance():
    def provisional(classes: int, share: float) -> bool:
        targets = np.repeat(np.arange(classes), 100)
        right = np.tile(np.arange(100) < 100 * share, classes)
        return measure_skill(targets, answers(targets, right, classes), classes, [None] * len(targets)).provisional

    assert not provisional(4, 0.5)
    assert provisional(4, 0.49)
    assert provisional(2, 0.74)
    assert not provisional(2, 0.75)


def test_the_exact_interval_is_scipys():
    for count, n in ((0, 7), (3, 10), (10, 10)):
        expected = binomtest(count, n).proportion_ci(0.95, "exact")
        assert exact_interval(count, n, 0.025) == pytest.approx((expected.low, expected.high))


def test_samples_without_a_group_are_groups_of_their_own():
    assert group_numbers(["a", None, "a", None, "b"]).tolist() == [0, 1, 0, 2, 3]
