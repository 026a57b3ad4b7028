"""Columns of the production log and of a reference as arrays that can be compared. N rows, D feature dimensions."""

import numpy as np
import pyarrow as pa

DIRECTIONS = 3  # P
FITTED = 500  # rows that principal directions come from: more cost seconds and turn them little


def numbers(table: pa.Table, name: str) -> np.ndarray:
    """(N,) finite values of a column; none where the table lacks it."""
    if name not in table.column_names:
        return np.empty(0)
    values = table[name].cast(pa.float64()).drop_null().to_numpy()
    return values[np.isfinite(values)]


def lists(table: pa.Table, name: str) -> np.ndarray:
    """(N, L) of a list column's rows that are whole and finite; (0, 0) where there are none."""
    rows = [row for row in table[name].to_pylist() if row]
    if not rows:
        return np.empty((0, 0))
    length = max(map(len, rows))
    found = np.array([row for row in rows if len(row) == length and None not in row], float).reshape(-1, length)
    return found[np.isfinite(found).all(axis=1)]


def confidence(table: pa.Table) -> np.ndarray:
    """(N,) as logged; for a reference, which has none, the highest probability."""
    if "confidence" in table.column_names:
        return numbers(table, "confidence")
    probabilities = lists(table, "probabilities")
    return probabilities.max(axis=1) if probabilities.size else np.empty(0)


def directions(window: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both sides along the reference's first P principal directions: (M, P) and (N, P).

    window (M, D), reference (N, D). P is 0 where a side is empty or their dimensions differ.
    """
    if len(reference) <= DIRECTIONS or not len(window) or window.shape[1] != reference.shape[1]:
        return np.empty((len(window), 0)), np.empty((len(reference), 0))
    centre = reference.mean(axis=0)
    axes = np.linalg.svd(reference[:FITTED] - centre, full_matrices=False)[2][:DIRECTIONS]  # (P, D)
    axes = axes * np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)])[:, None]  # svd leaves the sign open
    return (window - centre) @ axes.T, (reference - centre) @ axes.T
