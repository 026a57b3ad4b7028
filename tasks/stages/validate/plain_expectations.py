"""Expectations that a column can be seen to meet without importing Great Expectations.

A suite is answered here only if each of its expectations is one of CHECKS, with arguments that Great Expectations
takes, and no row breaks any. In every other case Great Expectations evaluates the whole suite: what breaks, and how it
is worded, is its answer alone. A test compares both on tables that meet, just meet and just miss each expectation.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tasks.common.sections.data import Expectation

EXACT = 2**53  # integers below it are the same number in double precision


def all_met(table: pa.Table, suite: list[Expectation]) -> bool:
    """Whether every row of `table` certainly meets every expectation; False: some break, or it cannot be told here.

    Text in `table` and in the suite is compared as it is.
    """
    return bool(suite) and all(_met(table, expectation.type, dict(expectation.kwargs)) for expectation in suite)


def _met(table: pa.Table, kind: str, kwargs: dict[str, Any]) -> bool:
    check, column, mostly = CHECKS.get(kind), kwargs.pop("column", None), kwargs.pop("mostly", 1.0)
    if check is None or not isinstance(column, str) or not (_number(mostly) and 0 < mostly <= 1):
        return False
    return check(table[column], **kwargs) if kwargs.keys() <= ARGUMENTS[kind] else False


def _between(column: pa.ChunkedArray, min_value: Any = None, max_value: Any = None) -> bool:
    bounds = [bound for bound in (min_value, max_value) if bound is not None]
    if not bounds or not all(_number(bound) and abs(bound) < EXACT for bound in bounds) or bounds[0] > bounds[-1]:
        return False
    if not (pa.types.is_floating(column.type) or pa.types.is_signed_integer(column.type)):
        return False
    values = column.drop_null().to_numpy().astype(np.float64)
    values = values[~np.isnan(values)]  # to pandas, and so to Great Expectations, NaN is a missing value
    low, high = -np.inf if min_value is None else min_value, np.inf if max_value is None else max_value
    return bool(((values >= low) & (values <= high)).all())


def _not_null(column: pa.ChunkedArray) -> bool:
    return pc.sum(pc.is_null(column, nan_is_null=True), min_count=0).as_py() == 0


def _in_set(column: pa.ChunkedArray, value_set: Any = None) -> bool:
    known = _known(column, value_set)
    return known is not None and pc.all(known, min_count=0).as_py()


def _not_in_set(column: pa.ChunkedArray, value_set: Any = None) -> bool:
    known = _known(column, value_set)
    return known is not None and not pc.any(known, min_count=0).as_py()


def _known(column: pa.ChunkedArray, value_set: Any) -> pa.ChunkedArray | None:
    """Which values, nulls left out, are in the set; None if one of them is not text."""
    if not (isinstance(value_set, list) and value_set and all(isinstance(value, str) for value in value_set)):
        return None
    if not pa.types.is_string(column.type):
        return None
    return pc.is_in(column.drop_null(), pa.array(value_set, pa.string()))


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and bool(np.isfinite(value))


CHECKS: dict[str, Callable[..., bool]] = {
    "expect_column_values_to_be_between": _between,
    "expect_column_values_to_not_be_null": _not_null,
    "expect_column_values_to_be_in_set": _in_set,
    "expect_column_values_to_not_be_in_set": _not_in_set,
}
ARGUMENTS: dict[str, set[str]] = {
    "expect_column_values_to_be_between": {"min_value", "max_value"},
    "expect_column_values_to_not_be_null": set(),
    "expect_column_values_to_be_in_set": {"value_set"},
    "expect_column_values_to_not_be_in_set": {"value_set"},
}
