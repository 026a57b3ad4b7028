"""The samples of a window or of a reference as arrays.

Values that are not finite numbers become NaN and are counted.

N samples (rows), K classes, D feature dimensions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

NUMBERS = ("brightness", "contrast", "sharpness", "entropy", "width", "height")
CATEGORIES = ("format", "mode", "exif_orientation")
NO_LABEL = "(none)"  # a multi-label answer without any label
HUGE = 1e38  # ood.FAR stands for a score that is not finite


@dataclass(frozen=True)
class SampleArrays:
    """One side of a comparison: a window or the reference."""

    ids: np.ndarray  # (N,) str
    numbers: dict[str, np.ndarray]  # NUMBERS, confidence, ood: (N,) float64, NaN if missing
    categories: dict[str, np.ndarray]  # CATEGORIES: (N,) str, "" if missing
    probabilities: np.ndarray  # (N, K) float64; each row is complete and finite, or all NaN
    features: np.ndarray  # (N, D) float32; likewise
    predicted: np.ndarray  # (N, K) bool; multi-label: (N, K + 1), the last column NO_LABEL; no True if missing
    missing: dict[str, tuple[int, int]]  # column -> rows without a value, rows with NaN or infinity

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: np.ndarray) -> "SampleArrays":
        """The arrays of `rows` (indices or bool); `missing` still describes all rows."""
        return SampleArrays(
            self.ids[rows],
            {name: values[rows] for name, values in self.numbers.items()},
            {name: values[rows] for name, values in self.categories.items()},
            self.probabilities[rows],
            self.features[rows],
            self.predicted[rows],
            self.missing,
        )


def log_arrays(table: pa.Table, classes: Sequence[str], dimensions: int, task: str) -> SampleArrays:
    """Rows of log_schema with readable images, as arrays. dimensions: D of the model's features."""
    missing: dict[str, tuple[int, int]] = {}
    numbers, categories = {}, {}
    for name in (*NUMBERS, "confidence", "ood"):
        numbers[name], *lost = number_column(table[name])
        missing[name] = tuple(lost)
    for name in CATEGORIES:
        values = table[name].cast(pa.string())
        categories[name] = np.array(values.fill_null("").to_pylist(), str)
        missing[name] = (values.null_count, 0)
    probabilities, *lost = vector_column(table["probabilities"], len(classes))
    missing["probabilities"] = tuple(lost)
    features, *lost = vector_column(table["features"], dimensions)
    missing["features"] = tuple(lost)
    predicted, unknown = label_membership(table["prediction"].to_pylist(), classes, task)
    missing["prediction"] = (unknown, 0)
    ids = np.array(table["id"].fill_null("").to_pylist(), str)
    return SampleArrays(ids, numbers, categories, probabilities.astype(np.float64), features, predicted, missing)


def number_column(column: pa.ChunkedArray) -> tuple[np.ndarray, int, int]:
    """(N,) float64, how many values were null, and how many NaN or infinite.

    All of these become NaN.
    """
    values = column.cast(pa.float64()).to_numpy().copy()  # null becomes NaN
    with np.errstate(invalid="ignore"):
        bad = ~(np.abs(values) < HUGE)
    values[bad] = np.nan
    return values, column.null_count, int(bad.sum()) - column.null_count


def vector_column(column: pa.ChunkedArray, length: int) -> tuple[np.ndarray, int, int]:
    """(N, length) float32 of a list column, how many rows have no value, how many are not finite.

    A row without a value is null or of another length; a row that is not finite contains a null, NaN or infinity. Both
    become all NaN.
    """
    rows = column.combine_chunks()
    lengths = rows.value_lengths().fill_null(-1).to_numpy(zero_copy_only=False)
    whole = lengths == length
    out = np.full((len(rows), length), np.nan, np.float32)
    flat = rows.filter(pa.array(whole)).flatten().cast(pa.float32()).to_numpy(zero_copy_only=False)
    out[whole] = flat.reshape(-1, length)
    finite = np.isfinite(out).all(axis=1)
    out[~finite] = np.nan
    return out, int((~whole).sum()), int((whole & ~finite).sum())


def label_membership(labels: Sequence, classes: Sequence[str], task: str) -> tuple[np.ndarray, int]:
    """Labels as (N, K) bool, multi-label (N, K + 1), and how many rows are unknown.

    A label is a name, or a list of names for multi-label. None, and a class that the model does not have, are unknown.
    """
    index = {name: k for k, name in enumerate(classes)}
    out = np.zeros((len(labels), len(classes) + (task == "multilabel")), bool)
    unknown = 0
    for row, label in enumerate(labels):
        names = label if isinstance(label, list | tuple) else [label]
        if label is None or any(name not in index for name in names):
            unknown += 1
        elif len(names):
            out[row, [index[name] for name in names]] = True
        else:
            out[row, -1] = True
    return out, unknown
