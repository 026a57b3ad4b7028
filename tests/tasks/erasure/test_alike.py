"""Other images that look like erased ones are found by their hash, and by features of the same model only."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.erasure.alike import Looks, find_alike, learn_looks


def table(**columns) -> pa.BufferReader:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    return pa.BufferReader(sink.getvalue())


def alike(*tables: dict, ids=("gone",)) -> set[str]:
    looks, found = Looks(), set()
    for columns in tables:
        learn_looks(looks, table(**columns), ids, "model")
    for columns in tables:
        found |= find_alike(looks, table(**columns), ids, "model")
    return found


def test_a_hash_that_differs_in_few_bits():
    hashes = pa.array([0b1111_0000, 0b1111_0011, 0b1111_0000_0000, None], pa.uint64())
    assert alike({"id": ["gone", "near", "far", "unreadable"], "phash": hashes}) == {"near"}


def test_features_that_point_the_same_way():
    features = [[1.0, 0.0, 0.1], [2.0, 0.01, 0.2], [0.0, 1.0, 0.0], None, [1.0, 0.0]]
    assert alike({"id": ["gone", "near", "far", "none", "short"], "features": features}) == {"near"}


def test_features_of_another_model_say_nothing():
    log = {"id": ["gone", "same", "other"], "bundle": ["a", "a", "b"], "features": [[1.0, 0.0]] * 3}
    assert alike(log) == {"same"}
    assert alike({"id": ["gone"], "features": [[1.0, 0.0]]}, log | {"id": ["x", "y", "z"]}) == set()


def test_values_that_are_not_finite_are_not_alike():
    assert alike({"id": ["gone", "x"], "features": [[np.nan, np.nan], [np.nan, 1.0]]}) == set()
