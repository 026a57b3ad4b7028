"""Labels that people confirmed: `clean` leaves them alone, unless the evidence has changed since.

New evidence is either what an annotator said against the label since, or images that came since: of the NEIGHBOURS
training images that look most like this one, at least ENOUGH_NEW came later and have the label that the probe predicts.
N samples, T training samples, D feature dimensions.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.common.artifacts import network_file
from tasks.common.files import read_json
from tasks.models.standardised import Features
from tasks.stages.clean.judge import Judgement

NEIGHBOURS, ENOUGH_NEW = 10, 3
BLOCK = 4096  # training rows compared at a time


def leave_confirmed(
    root: Path,
    samples: pa.Table,
    judgement: Judgement,
    train: np.ndarray,
    x: Features,
    y: np.ndarray,
    features: Callable[[np.ndarray], Features],
) -> tuple[np.ndarray, dict[str, str]]:
    """(N,) bool: confirmed labels to leave alone; and id -> new evidence against a confirmed label that looks wrong.

    samples: N rows with id and batch; judgement: of all of them; train: (T,) their training rows, with features `x`;
    y: (N,) or (N, K) labels; features: rows -> their features.
    """
    since, disputed, batch = read_confirmed(root, samples)
    left = since >= 0
    doubted = np.flatnonzero(left & judgement.is_issue)
    if len(doubted) == 0:
        return left, {}
    found = np.asarray(features(doubted)[np.arange(len(doubted))], np.float32)
    newer = newer_neighbours(found, since[doubted], judgement.predicted[doubted], x, y[train], batch[train])
    why = reopened([disputed[row] for row in doubted], newer)
    left[[row for row, text in zip(doubted, why, strict=True) if text]] = False
    ids = samples["id"].to_pylist()
    return left, {ids[row]: text for row, text in zip(doubted, why, strict=True) if text}


def read_confirmed(root: Path, samples: pa.Table) -> tuple[np.ndarray, list[str | None], np.ndarray]:
    """Of each of the N samples (columns id and batch): when its label was confirmed, what was said against it since,
    and the number of its batch. The first is (N,) int, -1: not confirmed; the last (N,) int."""
    table = pq.ParquetFile(network_file(root, "confirmed.parquet")).read()
    if len(table) == 0:
        return np.full(len(samples), -1), [None] * len(samples), np.zeros(len(samples), np.int64)
    ids = samples["id"].to_pylist()
    since = dict(zip(table["id"].to_pylist(), table["since"].to_pylist(), strict=True))
    disputed = dict(zip(table["id"].to_pylist(), table["disputed"].to_pylist(), strict=True))
    seqs = read_json(network_file(root, "batches.json"))
    batch = np.array([seqs[name] for name in samples["batch"].to_pylist()], np.int64)
    return np.array([since.get(one, -1) for one in ids], np.int64), [disputed.get(one) for one in ids], batch


def newer_neighbours(
    x: np.ndarray, since: np.ndarray, predicted: np.ndarray, train: Features, y: np.ndarray, batch: np.ndarray
) -> np.ndarray:
    """(C,) how many of the nearest training images came after a confirmation and have the predicted label.

    x: (C, D) features of confirmed samples; since: (C,) number of the batch that confirmed each; predicted: (C,) or
    (C, K) labels. train: (T, D) features, y: (T,) or (T, K) labels, batch: (T,) number of each training image's batch.
    """
    units = _units(x)
    best = np.full((len(units), NEIGHBOURS), -np.inf, np.float32)
    rows = np.zeros((len(units), NEIGHBOURS), np.int64)
    for start in range(0, len(y), BLOCK):
        block = _units(np.asarray(train[np.arange(start, min(start + BLOCK, len(y)))], np.float32))
        cosine = units @ block.T
        cosine[cosine > 1 - 1e-6] = -np.inf  # the image itself, and copies of it
        both = np.concatenate([best, cosine], axis=1)
        place = np.broadcast_to(np.arange(start, start + len(block)), cosine.shape)
        order = np.argsort(-both, axis=1, kind="stable")[:, :NEIGHBOURS]
        best = np.take_along_axis(both, order, axis=1)
        rows = np.take_along_axis(np.concatenate([rows, place], axis=1), order, axis=1)
    same = y[rows] == predicted[:, None] if y.ndim == 1 else (y[rows] == predicted[:, None, :]).all(axis=2)
    return (same & (batch[rows] > since[:, None]) & np.isfinite(best)).sum(axis=1)


def reopened(disputed: list[str | None], newer: np.ndarray) -> list[str | None]:
    """(C,) why each confirmed label is looked at again; None: its evidence has not changed."""
    came = [
        f"{count} of the {NEIGHBOURS} images most like it came since and have another label"
        if count >= ENOUGH_NEW
        else None
        for count in newer.tolist()
    ]
    return [said or new for said, new in zip(disputed, came, strict=True)]


def trusted(judgement: Judgement, rows: np.ndarray) -> Judgement:
    """`judgement` with certain labels in `rows` (N,) bool."""
    return replace(judgement, quality=np.where(rows, 1.0, judgement.quality).astype(judgement.quality.dtype))


def _units(x: np.ndarray) -> np.ndarray:
    x = np.asarray(x, np.float32)
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
