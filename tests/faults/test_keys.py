"""The key of a cache entry covers all of its inputs, or there is no key."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.common.files import content_key

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
ODD = (object(), {1, 2}, b"bytes", np.float32(1), np.arange(3), Path("a"), math.nan, math.inf, lambda: 1)


@pytest.mark.parametrize("value", ODD, ids=lambda value: type(value).__name__)
def test_what_json_cannot_hold_is_refused_and_never_left_out(value):
    for parts in ((value,), ("a", [value]), ("a", {"b": {"c": value}})):
        with pytest.raises((TypeError, ValueError)):
            content_key(*parts)


@given(JSON, JSON)
def test_other_values_have_another_key(one, other):
    same = content_key("v", one) == content_key("v", other)
    assert same == (repr_of(one) == repr_of(other))
    assert content_key("v", one) != content_key("v")


def repr_of(value) -> str:
    """`value` so that true and 1 differ, and the order of a dictionary's keys does not matter."""
    if isinstance(value, dict):
        return f"{{{sorted((key, repr_of(inner)) for key, inner in value.items())}}}"
    return str([repr_of(inner) for inner in value]) if isinstance(value, list) else repr(value)
