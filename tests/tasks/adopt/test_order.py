"""A model's answers show whether its classes are given in its own order."""

import numpy as np
import pytest

from tasks.adopt.order import check_order, likely_order
from tasks.common.errors import EvergreenError

NAMES = ["bird", "cat", "dog", "elk"]


def answers(order, accuracy: float, count: int, seed: int = 0):
    """Targets, and answers of a model whose output k means class order[k]."""
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, 4, count)
    right = rng.random(count) < accuracy
    outputs = np.argsort(order)[targets]
    return targets, np.where(right, outputs, rng.integers(0, 4, count))


@pytest.mark.parametrize("order", [[1, 2, 3, 0], [0, 1, 3, 2], [3, 2, 1, 0]])
def test_another_order_is_found_and_named(order):
    with pytest.raises(EvergreenError, match=f"in the order {','.join(NAMES[place] for place in order)}, "):
        check_order(NAMES, answers(order, 0.9, 80), answers(order, 0.9, 60, 1))


@pytest.mark.parametrize("accuracy", [0.0, 0.3, 1.0])
def test_the_given_order_stays_where_no_other_is_clearly_better(accuracy):
    same = [0, 1, 2, 3]
    assert not any(
        _refused(answers(same, accuracy, 40, 2 * seed), answers(same, accuracy, 40, 2 * seed + 1)) for seed in range(5)
    )


def _refused(fitted, held_out) -> bool:
    try:
        check_order(NAMES, fitted, held_out)
    except EvergreenError:
        return True
    return False


def test_a_class_without_images_keeps_its_place():
    assert likely_order(np.array([0, 1]), np.array([0, 1]), 4).tolist() == [0, 1, 2, 3]
