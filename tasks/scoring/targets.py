"""Encode labels as target arrays for training and scoring: N samples, K classes."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from tasks.common.errors import DataError


def encode(labels: pa.ChunkedArray | Sequence, classes: Sequence[str], task: str) -> np.ndarray:
    """Labels as training targets.

    multiclass: (N,) int64, -1 where there is no label. multilabel: (N, K) float32 of 0 and 1, NaN rows where
    there is no label. Raises DataError naming a label that is not in `classes`.
    """
    values = labels.to_pylist() if hasattr(labels, "to_pylist") else list(labels)
    number = {name: index for index, name in enumerate(classes)}
    try:
        if task == "multiclass":
            return np.array([-1 if value is None else number[value] for value in values], dtype=np.int64)
        out = np.zeros((len(values), len(classes)), dtype=np.float32)
        for row, value in enumerate(values):
            if value is None:
                out[row] = np.nan
            else:
                out[row, [number[name] for name in value]] = 1
        return out
    except KeyError as error:
        raise DataError(
            f"label {error.args[0]!r} is not one of the {len(classes)} classes {list(classes)[:20]}"
        ) from None


def class_counts(targets: np.ndarray, classes: int) -> np.ndarray:
    """Labelled samples per class, (K,) int64, in targets from `encode`."""
    if targets.ndim == 1:
        return np.bincount(targets[targets >= 0], minlength=classes)
    return np.nansum(targets, axis=0).astype(np.int64)
