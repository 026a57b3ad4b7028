"""The stage-2 classifier: a linear layer on the stage-1 features.

N samples, K classes, D feature dimensions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tasks.common import artifacts
from tasks.common.errors import StageInputError
from tasks.dataset.shard_table import ShardTable

CROSS_FITTED = "cross_fitted.parquet"  # beside the head
ROWS = 4096  # rows of features in memory at once


@dataclass(frozen=True)
class Head:
    """logits = features @ weight.T + bias; weight (K, D), bias (K,), float32. `setting` is its method's L2 or tau."""

    weight: np.ndarray
    bias: np.ndarray
    setting: float | None = None

    def part(self, places: Sequence[int]) -> "Head":
        """The classes at `places`, in that order."""
        return Head(self.weight[list(places)], self.bias[list(places)], self.setting)

    def logits(self, x: ShardTable | np.ndarray) -> np.ndarray:
        """(N, K) logits of features (N, D), ROWS rows at a time."""
        starts = range(0, len(x), ROWS)
        parts = [x[start : start + ROWS].astype(np.float32) @ self.weight.T + self.bias for start in starts]
        return np.concatenate(parts)


def read_head(root: Path) -> Head:
    """The head that train_head chose. Raises StageInputError if that stage has not run."""
    from safetensors.numpy import load_file

    head = load_file(artifacts.stage_output(root / "artifacts/train_head/head.safetensors", "train_head"))
    return Head(head["weight"], head["bias"])


def cross_fitted_logits(root: Path, ids: Sequence[str], logits: np.ndarray) -> np.ndarray:
    """(N, K) logits of the calibration images `ids`, each from a head that was chosen without its fold.

    logits: those of the head that was chosen in the end, for a run before they were kept. Raises StageInputError for
    a file of another run.
    """
    import pyarrow.parquet as pq

    file = root / artifacts.HEAD_FOLDER / CROSS_FITTED
    if not file.is_file():
        return logits
    table = pq.read_table(file)
    if table["id"].to_pylist() != list(ids):
        raise StageInputError(
            f"{artifacts.HEAD_FOLDER / CROSS_FITTED} has {len(table)} images, which are not the {len(ids)} labelled "
            "ones of the calibration split: the files come from different runs. Run the stage train_head again."
        )
    return np.array(table["logits"].to_pylist(), np.float32).reshape(logits.shape)
