"""Which parts stay in float, from tables of what each loses; and how parts are cut."""

import numpy as np
import pytest

from tasks.common.errors import EvergreenError
from tasks.int8.search import choose, divergence, parts


def losses(alone: list[float]):
    return lambda chosen: sum(alone[part] for part in chosen)


@pytest.mark.parametrize(
    ("alone", "bound", "in_float"),
    [
        ([1, 1, 1], 3, []),
        ([1, 9, 1, 2], 4, [1]),
        ([1, 9, 1, 2], 2, [1, 3]),
        ([1, 9, 1, 2], 1, [1, 3, 0]),
        ([5, 1], 1, [0]),
    ],
)
def test_the_fewest_and_most_sensitive_parts_stay_in_float(alone, bound, in_float):
    found = choose(len(alone), losses(alone), bound)
    assert found.in_float == in_float
    assert found.loss <= bound


def test_a_bound_that_no_part_keeps_is_an_error_with_what_parts_lose():
    with pytest.raises(EvergreenError, match=r"within 0\.5 nats: allow more .* lose 1 to 9"):
        choose(3, losses([1, 9, 2]), 0.5)


def test_parts_begin_at_weights_and_hold_every_node_after_the_first():
    nodes = [(f"{kind}{place}", kind == "w") for place, kind in enumerate("wcwccwwc")]
    assert parts(nodes, 2) == [["w0", "c1", "w2", "c3", "c4"], ["w5", "w6", "c7"]]
    assert len(parts(nodes, 12)) == 4
    assert parts([("c0", False)]) == []


def test_the_divergence_is_zero_for_the_same_and_infinite_for_broken_probabilities():
    p = np.array([[0.9, 0.1], [0.4, 0.6]])
    assert divergence(p, p, "multiclass") == divergence(p, p, "multilabel") == 0
    assert divergence(p, 1 - p, "multilabel") == pytest.approx(2 * divergence(p, 1 - p, "multiclass"))
    assert divergence(p, np.full((2, 2), np.nan), "multiclass") == np.inf
