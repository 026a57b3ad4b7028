"""Coarse answers: the group of classes where the class is unsure."""

import numpy as np

from tasks.inference import coarse

GROUPS = {"animal": ["cat", "dog"], "vehicle": ["car", "van"]}
CLASSES = ["cat", "car", "dog", "van"]
MEMBERS = coarse.membership(GROUPS, CLASSES)


def test_an_unsure_answer_gets_the_likeliest_group_and_a_sure_one_none():
    said = np.array([[0.45, 0.05, 0.45, 0.05], [0.9, 0.1, 0.0, 0.0], [0.3, 0.3, 0.2, 0.2]])
    sure = np.array([False, True, False])
    assert coarse.answers(said, sure, GROUPS, CLASSES, 0.8) == ["animal", None, None]
    assert coarse.answers(said, sure, {}, CLASSES, 0.8) == [None, None, None]


def unsure(rng, right: np.ndarray, value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Images whose group "animal" has probability `value`, and which are animals where `right`."""
    said = np.stack([value / 2, (1 - value) / 2, value / 2, (1 - value) / 2], axis=1)
    return said, np.where(right, rng.choice([0, 2], len(right)), 1)


def test_the_threshold_makes_coarse_answers_as_good_as_sure_ones():
    rng = np.random.default_rng(0)
    value = rng.uniform(0.5, 1, 4000)
    said, targets = unsure(rng, rng.random(4000) < value, value)
    certain = np.tile([0.96, 0.02, 0.01, 0.01], (1000, 1))
    truth = np.where(rng.random(1000) < 0.9, 0, 1)
    sure = np.r_[np.zeros(4000, bool), np.ones(1000, bool)]
    said, targets = np.r_[said, certain], np.r_[targets, truth]
    bound = coarse.fit_threshold(said, targets, said.argmax(axis=1), sure, MEMBERS)
    assert 0.75 < bound < 0.85  # uniform from 0.8 to 1: right in 90 %
    given = np.flatnonzero(value >= bound)
    assert abs((targets != 1)[given].mean() - 0.9) < 0.02
    worse = coarse.fit_threshold(
        said, targets, np.ones(5000, int), sure, MEMBERS
    )  # fine answers that are wrong in 90 %
    assert worse < 0.6


def test_few_unsure_images_keep_the_default_and_hopeless_groups_are_never_answered():
    rng = np.random.default_rng(0)
    said, targets = unsure(rng, np.zeros(100, bool), np.full(100, 0.9))
    sure = np.zeros(100, bool)
    given = said.argmax(axis=1)
    assert coarse.fit_threshold(said, targets, given, sure, MEMBERS) > 1
    assert coarse.fit_threshold(said[:5], targets[:5], given[:5], sure[:5], MEMBERS) == coarse.DEFAULT
