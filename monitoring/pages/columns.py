"""A measured window with its tables, and their columns as arrays to compare.

N rows, D feature dimensions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from monitoring.contracts import DriftDecision, Measures

DIRECTIONS = 3  # P
FITTED = 500  # rows for the principal directions: more rows cost seconds and change them little


@dataclass(frozen=True)
class MeasuredWindow:
    """Everything that a report shows of one window."""

    window_table: pa.Table  # monitoring.log.schema.log_schema
    reference_table: pa.Table  # of monitoring.drift.reference.answered
    measures: Measures
    decision: DriftDecision
    classes: Sequence[str]  # in the model's order


def numbers(table: pa.Table, name: str) -> np.ndarray:
    """(N,) finite values of a column; empty if the table lacks it."""
    if name not in table.column_names:
        return np.empty(0)
    values = table[name].cast(pa.float64()).drop_null().to_numpy()
    return values[np.isfinite(values)]


def lists(table: pa.Table, name: str) -> np.ndarray:
    """(N, L) of a list column's complete and finite rows; (0, 0) if there are none."""
    rows = [row for row in table[name].to_pylist() if row]
    if not rows:
        return np.empty((0, 0))
    length = max(map(len, rows))
    found = np.array([row for row in rows if len(row) == length and None not in row], float).reshape(-1, length)
    return found[np.isfinite(found).all(axis=1)]


def directions(window: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Window and reference along the reference's first P principal directions: (M, P) and (N, P).

    window: (M, D); reference: (N, D). P is 0 if one side is empty or their dimensions differ.
    """
    if len(reference) <= DIRECTIONS or not len(window) or window.shape[1] != reference.shape[1]:
        return np.empty((len(window), 0)), np.empty((len(reference), 0))
    centre = reference.mean(axis=0)
    axes = np.linalg.svd(reference[:FITTED] - centre, full_matrices=False)[2][:DIRECTIONS]  # (P, D)
    axes = axes * np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)])[:, None]  # svd leaves it open
    return (window - centre) @ axes.T, (reference - centre) @ axes.T
