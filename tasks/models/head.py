"""The stage-2 classifier: reading it, and its logits."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tasks.common import artifacts
from tasks.dataset.shard_table import ShardTable

CHUNK = 4096  # rows of features in memory at once


def read_head(root: Path) -> tuple[np.ndarray, np.ndarray]:
    """(weight (K, D), bias (K,)) of train_head. Raises StageInputError when it was not trained."""
    from safetensors.numpy import load_file

    head = load_file(artifacts.stage_output(root / "artifacts/train_head/head.safetensors", "train_head"))
    return head["weight"], head["bias"]


def head_logits(features: ShardTable, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """(N, K) float32 logits of (N, D) features, CHUNK rows at a time."""
    parts = [part.astype(np.float32) @ weight.T + bias for _, part in features.batches(CHUNK)]
    return np.concatenate(parts).astype(np.float32)


ROWS = 4096


@dataclass(frozen=True)
class Head:
    """logits = features @ weight.T + bias; weight (K, D), bias (K,), float32. `setting` is its method's L2 or tau."""

    weight: np.ndarray
    bias: np.ndarray
    setting: float | None = None

    def logits(self, x: ShardTable | np.ndarray) -> np.ndarray:
        """(N, K) of features (N, D), some thousand rows at a time."""
        starts = range(0, len(x), ROWS)
        parts = [x[start : start + ROWS].astype(np.float32) @ self.weight.T + self.bias for start in starts]
        return np.concatenate(parts)
