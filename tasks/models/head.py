"""The stage-2 classifier: a linear layer on the stage-1 features.

N samples, K classes, D feature dimensions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tasks.common import artifacts
from tasks.dataset.shard_table import ShardTable

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
