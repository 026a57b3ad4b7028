"""Folds: groups stay whole, every class is in every training part, near-duplicates of held-out images are not."""

import numpy as np

from tasks.models.folds import assign_folds, training_masks


def one_hot(y: np.ndarray, classes: int) -> np.ndarray:
    return y[:, None] == np.arange(classes)


def alone(count: int) -> np.ndarray:
    """A group or cluster of its own for each sample."""
    return np.arange(count).astype(str)


def test_folds_keep_groups_whole_and_spread_every_class():
    rng = np.random.default_rng(0)
    y = rng.choice(4, 600, p=[0.6, 0.25, 0.1, 0.05])
    groups = np.where(np.arange(600) < 300, rng.integers(0, 30, 600), 1000 + np.arange(600)).astype(str)
    fold = assign_folds(one_hot(y, 4), groups, 5, seed=0)
    for group in np.unique(groups):
        assert len(set(fold[groups == group])) == 1
    for number in range(4):
        share = np.bincount(fold[y == number], minlength=5) / np.sum(y == number)
        assert share.max() < 0.4, f"class {number} lies too much in one fold: {share}"
    assert np.bincount(fold).max() < 1.5 * 600 / 5
    np.testing.assert_array_equal(fold, assign_folds(one_hot(y, 4), groups, 5, seed=0))


def test_a_class_of_one_group_is_still_in_every_training_part():
    y = np.array([0] * 40 + [1] * 40 + [2] * 6)
    groups = np.array([f"site {i % 8}" for i in range(80)] + ["one camera"] * 6)
    fold = assign_folds(one_hot(y, 3), groups, 5, seed=0)
    masks = training_masks(fold, alone(86), one_hot(y, 3), 5)
    for number in range(5):
        assert set(y[masks[number]]) == {0, 1, 2}
        assert not masks[number][fold == number].any()


def test_near_duplicates_of_what_is_held_out_are_not_trained_on():
    y = np.array([0, 1] * 20)
    clusters = alone(40)
    clusters[[0, 2, 4]] = "the same picture"
    fold = np.arange(40) % 5
    masks = training_masks(fold, clusters, one_hot(y, 2), 5)
    for number in fold[[0, 2, 4]]:
        assert not masks[number][[0, 2, 4]].any()
    assert masks[3][[0, 2, 4]].all(), "folds without one of them may use them"


def test_a_class_of_near_duplicates_only_keeps_its_own_for_training():
    y = np.array([0] * 10 + [1] * 4)
    clusters = np.array([*alone(10), *["one picture"] * 4])
    fold = np.arange(14) % 2
    masks = training_masks(fold, clusters, one_hot(y, 2), 2)
    assert all(set(y[mask]) == {0, 1} for mask in masks)
