"""Out-of-fold accuracy over groups."""

import numpy as np

from tasks.stages.evaluate.cross_validation import cross_validated, too_small

RNG = np.random.default_rng(0)
Y = np.repeat([0, 1], 120)
GROUPS = np.array([f"g{number // 10}" for number in range(240)])  # 12 groups of each class


def test_it_is_near_what_new_groups_give():
    """A feature that tells classes apart, and many that only tell groups apart."""
    own = RNG.normal(0, 3, (24, 40))[np.arange(240) // 10]
    x = np.column_stack([Y * 1.5 + RNG.normal(0, 1, 240), own + RNG.normal(0, 0.1, (240, 40))]).astype(np.float32)
    by_group = cross_validated(x, Y, ["a", "b"], GROUPS)
    by_image = cross_validated(x, Y, ["a", "b"], np.arange(240).astype(str))
    assert by_image["balanced_accuracy"] > 0.9  # the group gives the class away
    assert by_group["balanced_accuracy"] < 0.85
    assert by_group["high"] - by_group["low"] > 2 * (by_image["high"] - by_image["low"])
    assert (by_group["images"], by_group["groups"]) == (240, 24)


def test_a_class_of_one_group_is_left_out_and_named():
    y = np.concatenate([Y, [2] * 5])
    x = RNG.normal(0, 1, (245, 8)).astype(np.float32) + y[:, None]
    found = cross_validated(x, y, ["a", "b", "lonely"], np.concatenate([GROUPS, ["h"] * 5]))
    assert found["single_group"] == ["lonely"]
    assert found["images"] == 240
    alone = cross_validated(x[:20], Y[110:130], ["a", "b"], np.array(["p"] * 10 + ["q"] * 10))
    assert alone["balanced_accuracy"] is None
    assert alone["single_group"] == ["a", "b"]


def test_several_labels():
    y = np.column_stack([Y == 0, np.arange(240) % 3 == 0]).astype(np.float32)
    x = (y @ RNG.normal(0, 3, (2, 8)) + RNG.normal(0, 1, (240, 8))).astype(np.float32)
    assert cross_validated(x, y, ["a", "b"], GROUPS)["low"] > 0.8


def test_a_test_split_is_too_small_with_few_images_or_without_a_class():
    assert too_small(Y[:99] * 0, 1, 1000)
    assert not too_small(np.arange(100) % 5, 5, 1000)
    assert too_small(np.arange(100) % 4, 5, 1000)
    assert not too_small(np.arange(100) % 4, 5, 100_000)
