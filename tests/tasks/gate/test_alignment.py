"""The champion's answers in the challenger's classes, across changes of the classes."""

import numpy as np
import pytest

from tasks.gate.alignment import alignment
from tests.tasks.labels.test_taxonomy import of

SAID = np.array([[0.1, 0.2, 0.7], [0.5, 0.3, 0.2]])
BOUNDS = {"a": 0.5, "b": 0.2, "c": 0.8}


def columns(classes: list[str], taxonomy, **more) -> np.ndarray:
    return alignment(["a", "b", "c"], classes, taxonomy).columns(SAID, more.pop("task", "multiclass"), **more)


def test_columns_are_put_in_order_and_a_class_that_the_champion_does_not_know_gets_nothing():
    assert columns(["b", "new", "a"], of()).tolist() == [[0.2, 0.0, 0.1], [0.3, 0.0, 0.5]]


def test_a_renamed_class_keeps_its_column_and_a_retired_one_leaves():
    found = columns(["cc", "a"], of(("rename", "c", "cc"), ("retire", "b", "")))
    assert found.tolist() == [[0.7, 0.1], [0.2, 0.5]]


def test_probabilities_of_merged_classes_are_summed():
    assert columns(["bc", "a"], of(("merge", "b c", "bc"))) == pytest.approx(np.array([[0.9, 0.1], [0.5, 0.5]]))


def test_a_split_class_answers_the_part_that_the_challenger_finds_likeliest():
    placed = alignment(["a", "b", "c"], ["a", "b", "c1", "c2"], of(("split", "c", "c1 c2")))
    assert placed.divided
    challenger = np.array([[0.0, 0.0, 0.4, 0.6], [0.0, 0.9, 0.06, 0.04]])
    found = placed.columns(SAID, "multiclass", challenger=challenger)
    assert found.tolist() == [[0.1, 0.2, 0.0, 0.7], [0.5, 0.3, 0.2, 0.0]]


def test_a_merged_multilabel_class_is_answered_where_one_of_its_classes_was():
    taxonomy = of(("merge", "b c", "bc"))
    placed = alignment(["a", "b", "c"], ["a", "bc"], taxonomy)
    bounds = placed.thresholds(BOUNDS)
    said = np.array([[0.9, 0.1, 0.79], [0.1, 0.25, 0.1], [0.4, 0.1, 0.81]])
    found = placed.columns(said, "multilabel", BOUNDS)
    assert (found >= [bounds["a"], bounds["bc"]]).tolist() == [[True, False], [False, True], [False, True]]
    assert found[:, 0].tolist() == said[:, 0].tolist()


def test_weights_follow_their_class_through_renames_merges_and_splits():
    taxonomy = of(("rename", "a", "aa"), ("merge", "b c", "bc"), ("split", "d", "d1 d2"))
    placed = alignment(list("abcd"), ["aa", "bc", "d1", "d2", "new"], taxonomy)
    assert placed.weights({"a": 3.0, "b": 2.0, "c": 4.0, "d": 5.0}) == {"aa": 3.0, "bc": 3.0, "d1": 5.0, "d2": 5.0}
    assert set(placed.weights({}).values()) == {1.0}


def test_thresholds_of_other_classes_stay():
    placed = alignment(["a", "b", "c"], ["a", "cc", "new"], of(("rename", "c", "cc")))
    assert placed.thresholds(BOUNDS) == {"a": 0.5, "cc": 0.8}
