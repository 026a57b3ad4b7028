"""Plain expectations: answered without Great Expectations only where it would say the same."""

import numpy as np
import pyarrow as pa
import pytest

from tasks.common.sections.data import Expectation
from tasks.stages.validate import expectations
from tasks.stages.validate.expectations import Outcome, evaluate
from tasks.stages.validate.plain_expectations import all_met

TENTH = float(np.float32(0.1))  # above 0.1
TABLE = pa.table(
    {
        "id": pa.array(["one", "two", "three", "four"]),
        "width": pa.array([16, 20, None, 32], pa.int32()),
        "height": pa.array([16, 20, 24, 32], pa.int32()),
        "contrast": pa.array([0.1, float("nan"), None, 2.5], pa.float32()),
        "brightness": pa.array([0.1, 0.5, 1.0, 2.5], pa.float32()),
        "label": pa.array(["cat", "<b>dog</b>", None, "cat"]),
        "phash": pa.array([1, 2, 3, 2**64 - 1], pa.uint64()),
    }
)
BETWEEN, NOT_NULL = "expect_column_values_to_be_between", "expect_column_values_to_not_be_null"
IN_SET, NOT_IN_SET = "expect_column_values_to_be_in_set", "expect_column_values_to_not_be_in_set"
MET = [
    (BETWEEN, {"column": "width", "min_value": 16}),
    (BETWEEN, {"column": "width", "min_value": 16, "max_value": 32}),
    (BETWEEN, {"column": "height", "max_value": 32.0, "mostly": 0.5}),
    (BETWEEN, {"column": "contrast", "min_value": 0.1, "max_value": 2.5}),
    (BETWEEN, {"column": "brightness", "min_value": TENTH}),
    (NOT_NULL, {"column": "height"}),
    (NOT_NULL, {"column": "brightness"}),
    (IN_SET, {"column": "label", "value_set": ["cat", "<b>dog</b>", "cow"]}),
    (NOT_IN_SET, {"column": "label", "value_set": ["cow"]}),
]
BROKEN = [
    (BETWEEN, {"column": "width", "min_value": 17}),
    (BETWEEN, {"column": "height", "max_value": 31}),
    (BETWEEN, {"column": "brightness", "max_value": 2.4999}),
    (BETWEEN, {"column": "brightness", "min_value": 0.1000001}),
    (NOT_NULL, {"column": "width"}),
    (NOT_NULL, {"column": "contrast"}),
    (IN_SET, {"column": "label", "value_set": ["cat"]}),
    (NOT_IN_SET, {"column": "label", "value_set": ["<b>dog</b>"]}),
]
NOT_TOLD = [  # met or not: Great Expectations says
    (BETWEEN, {"column": "label", "min_value": 1}),
    (BETWEEN, {"column": "height"}),
    (BETWEEN, {"column": "height", "min_value": 40, "max_value": 10}),
    (BETWEEN, {"column": "height", "min_value": "16"}),
    (BETWEEN, {"column": "height", "min_value": True}),
    (BETWEEN, {"column": "phash", "min_value": 1}),
    (BETWEEN, {"column": "height", "min_value": 15, "strict_min": True}),
    (BETWEEN, {"column": "height", "min_value": 1, "row_condition": "width > 3", "condition_parser": "pandas"}),
    (NOT_NULL, {"column": "height", "mostly": "all"}),
    (IN_SET, {"column": "label", "value_set": []}),
    (IN_SET, {"column": "height", "value_set": [16, 20, 24, 32]}),
    ("expect_table_row_count_to_equal", {"value": 4}),
    ("expect_wonders", {}),
]


def suite(*stated: tuple[str, dict]) -> list[Expectation]:
    return [Expectation(type=kind, kwargs=kwargs) for kind, kwargs in stated]


def test_great_expectations_says_the_same(tmp_path):
    asked = suite(*MET, *BROKEN)
    told = [all_met(expectations.escaped(TABLE), expectations.escaped_suite([one])) for one in asked]
    assert told == [True] * len(MET) + [False] * len(BROKEN)
    peers = evaluate(tmp_path, TABLE, asked)  # one is broken, so Great Expectations evaluates all
    assert [one.passed for one in peers] == told
    assert evaluate(tmp_path, TABLE, asked[: len(MET)]) == peers[: len(MET)], "not only passed: the same outcome"


def test_a_suite_that_is_met_is_not_given_to_great_expectations(tmp_path, monkeypatch):
    def asked(*_):
        raise AssertionError("it was asked")

    monkeypatch.setattr(expectations, "_evaluate", asked)
    assert evaluate(tmp_path, TABLE, suite(MET[0])) == [
        Outcome(type=BETWEEN, kwargs={"column": "width", "min_value": 16}, severity="quarantine", passed=True)
    ]
    for stated in (BROKEN[0], *NOT_TOLD):
        with pytest.raises(AssertionError, match="it was asked"):
            evaluate(tmp_path, TABLE, suite(MET[0], stated))


def test_an_empty_suite_is_not_met():
    assert not all_met(TABLE, [])
