"""What goes to people: the curve, its area and the share at a wanted accuracy, by hand."""

import numpy as np
import pytest

from tasks.scoring.selective import area_over_curve, curve, to_people

RIGHT = np.array([True, True, False, True, False])
SURE = np.array([0.9, 0.8, 0.7, 0.6, 0.5])


def test_the_curve_answers_the_surest_first():
    found = curve(RIGHT[::-1], SURE[::-1])
    np.testing.assert_allclose(found.bound, SURE)
    np.testing.assert_allclose(found.share, [0.2, 0.4, 0.6, 0.8, 1])
    np.testing.assert_allclose(found.accuracy, [1, 1, 2 / 3, 3 / 4, 3 / 5])


def test_equally_sure_answers_are_given_together():
    found = curve(RIGHT, np.array([0.9, 0.5, 0.5, 0.5, 0.1]))
    np.testing.assert_allclose(found.share, [0.2, 0.8, 1])
    np.testing.assert_allclose(found.accuracy, [1, 3 / 4, 3 / 5])


def test_the_area_is_the_mean_share_of_mistakes():
    assert area_over_curve(RIGHT, SURE) == pytest.approx((0 + 0 + 1 / 3 + 1 / 4 + 2 / 5) / 5)
    same = area_over_curve(RIGHT, np.full(5, 0.5))
    assert same == pytest.approx(0.4), "without any order, mistakes are spread evenly"
    assert area_over_curve(RIGHT, np.array([5, 4, 1, 3, 2.0])) < area_over_curve(RIGHT, SURE)


@pytest.mark.parametrize(("wanted", "share", "bound"), [(1.0, 0.6, 0.8), (0.75, 0.2, 0.6), (0.6, 0.0, 0.5)])
def test_people_see_the_least_share_that_makes_the_rest_as_right_as_wanted(wanted, share, bound):
    (found,) = to_people(RIGHT, SURE, [wanted])
    assert found.share == pytest.approx(share)
    assert found.bound == bound
    assert found.low <= found.share <= found.high


def test_people_see_everything_where_the_surest_answer_is_wrong():
    (found,) = to_people(np.array([False, True, True]), np.array([0.9, 0.8, 0.7]), [0.9])
    assert found.share == 1
    assert found.bound is None


def test_the_interval_is_wider_where_images_of_a_group_come_out_alike():
    rng = np.random.default_rng(0)
    sure = rng.random(600)
    right = np.repeat(rng.random(60) < 0.8, 10)
    (alone,) = to_people(right, sure, [0.9])
    (grouped,) = to_people(right, sure, [0.9], [f"object {row // 10}" for row in range(600)])
    assert grouped.share == alone.share
    assert grouped.high - grouped.low > alone.high - alone.low
