"""Tests that may be looked at after every request: they keep their level under continuous looking, and have power."""

from math import log

import numpy as np
import pytest

from monitoring.sequential import (
    commoner,
    exceeds,
    matched,
    more_wrong,
    paired_commoner,
    paired_rarer,
    rarer,
)

ALPHA, RUNS, LOOKS = 0.05, 400, 60
HIGHEST = ALPHA * RUNS + 3 * (ALPHA * (1 - ALPHA) * RUNS) ** 0.5


def crossed(log_e) -> bool:
    return any(one >= log(1 / ALPHA) for one in log_e)


def arm_events(rng, share: float, new: float, live: float, per_look: int = 50):
    """Counts of an event in both arms after each look."""
    n, hits = rng.binomial(per_look, share, LOOKS), None
    hits = np.cumsum(rng.binomial(n, new)), np.cumsum(rng.binomial(per_look - n, live))
    return list(zip(*(one.tolist() for one in hits), strict=True))


@pytest.mark.parametrize("share", [0.05, 0.5])
def test_equal_arms_seldom_cross_however_often_one_looks(share):
    rng, false = np.random.default_rng(0), {"rarer": 0, "commoner": 0}
    for _ in range(RUNS):
        seen = arm_events(rng, share, 0.2, 0.2)
        false["rarer"] += crossed(rarer([(new, live, share)], 1.0) for new, live in seen)
        false["commoner"] += crossed(commoner([(new, live, share)], 1.0) for new, live in seen)
    assert max(false.values()) <= HIGHEST
    assert max(false.values()) > 0, "it bets"


def test_a_class_that_vanished_is_found_at_a_small_share_and_a_rarer_one_may_be():
    found = next(n for n in range(1, 2000) if rarer([(0, n, 0.05)], 0.5) > log(1000))
    assert found < 350, "of live answers of that class"
    assert rarer([(40, 1000, 0.05)], 0.5) < 0, "a fifth rarer is not half as rare"
    assert rarer([], 0.5) == rarer([(3, 5, 0.0), (3, 5, 1.0)], 0.5) == 0
    halves = [(0, 60, 0.05), (0, 8, 0.5)]
    assert rarer(halves, 0.5) > max(rarer(halves[:1], 0.5), rarer(halves[1:], 0.5)), "steps add up"


def test_a_share_above_its_bound():
    assert exceeds(12, 12, 0.5) > log(100)
    assert exceeds(500, 1000, 0.5) < 0
    assert exceeds(30, 1000, 0.01) > log(100)


def test_labelled_blocks_keep_their_level_and_find_a_model_that_is_wrong_more_often():
    rng, false = np.random.default_rng(1), 0
    for _ in range(RUNS):
        new, live = rng.random(200) < 0.3, rng.random(200 * 5) < 0.3
        false += crossed(more_wrong(matched(new[:n], live, 5)) for n in range(0, 200, 20))
    assert 0 < false <= HIGHEST
    worse = matched([True] * 20, [False, True, False, False] * 20, 4)
    assert worse == {(4, 2, True): 20}
    assert more_wrong(worse) > log(1000)
    assert more_wrong(matched([True] * 20, [True] * 80, 4)) == 0, "all wrong: the arms do not differ"


def test_blocks_wait_for_labels_of_the_other_arm():
    assert matched([True, False], [True] * 5, 3) == {(3, 4, True): 1}
    assert matched([], [True], 1) == matched([True], [], 1) == {}


def test_pairs_on_the_same_images():
    rng, false = np.random.default_rng(2), 0
    for _ in range(RUNS):
        kinds = rng.choice(4, 600, p=[0.1, 0.1, 0.1, 0.7])
        counts = [np.bincount(kinds[: 10 * n], minlength=4)[:3].tolist() for n in range(1, 61)]
        false += crossed(paired_rarer(*one, 1.0) for one in counts)
    assert 0 < false <= HIGHEST
    assert paired_rarer(0, 25, 0, 0.5) > log(1000)
    assert paired_rarer(20, 5, 0, 0.5) < 0
    assert paired_commoner(5, 0, 40, 2.0) > log(1000)
    assert paired_commoner(20, 5, 5, 2.0) < 0
