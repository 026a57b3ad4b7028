"""Fit and compute a model's out-of-distribution score (high = unfamiliar) with one of METHODS.

    knn              tasks.inference.ood.neighbours
    energy           tasks.inference.ood.energy
    mahalanobis, rmds, rmds++    tasks.inference.ood.gaussian
    vim, vim++       tasks.inference.ood.residual
    energy+knn       the sum of the two, each in units of its spread on the calibration split

The threshold is set on the calibration split, on which the model was not trained. That fixes the rate of false alarms,
but not what is found, which depends on the features: measure it before you trust it.
N images, K classes, D feature dimensions, M training images.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tasks.common.errors import DataError
from tasks.dataset.shard_table import ShardTable
from tasks.inference.ood import energy, gaussian, neighbours, residual

METHODS = ("knn", "energy", "energy+knn", "mahalanobis", "rmds", "rmds++", "vim", "vim++")
GAUSSIAN = {  # method -> how tasks.inference.ood.gaussian fits it
    "mahalanobis": {"unit": False, "relative": False},
    "rmds": {"unit": False, "relative": True},
    "rmds++": {"unit": True, "relative": True},
}
UNIT_RESIDUAL = {"vim": False, "vim++": True}
PARTS = ("energy", "knn")  # of energy+knn
FARTHEST = 20.0  # spreads: a part of energy+knn says no more than this
BANK_ROWS = 2000
TRAINING_ROWS = 20_000  # for a covariance; each search of a neighbour would pay for all of them
TRAINING_VALUES = 20_000_000  # rows x dimensions: 160 MB in float64, of which a fit holds three copies
CHUNK = 1024  # images scored at once: chunk x bank distances in memory
FAR = float(np.finfo(np.float32).max)  # score of features or logits that are not finite: always unfamiliar


@dataclass(frozen=True)
class Training:
    """What the model makes of training images, those of bank_rows(..., TRAINING_ROWS)."""

    features: np.ndarray  # (M, D)
    logits: np.ndarray  # (M, K)
    targets: np.ndarray  # (M,) class numbers, or (M, K) of 0 and 1 for multi-label models

    def usable(self) -> "Training":
        """Its images with finite features and logits. Raises DataError if there are none."""
        rows = np.isfinite(self.features).all(axis=1) & np.isfinite(self.logits).all(axis=1)
        if not rows.any():
            raise DataError(
                f"none of {len(rows)} training images has finite features: the network is broken, train it again"
            )
        return self if rows.all() else self.taken(rows)

    def taken(self, rows: np.ndarray) -> "Training":
        return Training(self.features[rows], self.logits[rows], self.targets[rows])


def bank_rows(strata: np.ndarray, rows: int = BANK_ROWS, seed: int = 0) -> np.ndarray:
    """Sorted indices of at most `rows` samples, shared equally among strata (classes). strata: (N,)."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(strata))
    turn = np.empty(len(strata), np.int64)  # position of the sample within its stratum
    for stratum in np.unique(strata):
        members = order[strata[order] == stratum]
        turn[members] = np.arange(len(members))
    return np.sort(order[np.argsort(turn[order], kind="stable")][:rows])


def training_rows(dimensions: int) -> int:
    """How many training images of so many feature dimensions a score is fitted on, at most."""
    return max(BANK_ROWS, min(TRAINING_ROWS, TRAINING_VALUES // dimensions))


class Fitted(NamedTuple):
    """A score: what `score` needs, and the scores (N,) of the calibration images that set its threshold."""

    about: dict
    tensors: dict[str, np.ndarray]
    scores: np.ndarray


def fit(
    method: str,
    training: Training | None,
    features: np.ndarray | ShardTable,
    logits: np.ndarray,
    false_rejection: float,
    task: str,
) -> Fitted:
    """A score whose threshold flags `false_rejection` of the calibration images.

    training: None for energy, which needs none; features: (N, D), an array or ShardTable, and logits: (N, K), both of
    the calibration split.
    `about` is JSON: {method, task, threshold, false_rejection} and what the method needs; a score above `threshold`
    is flagged. Raises DataError if no training image has finite features.
    """
    about, tensors = {"method": method, "task": task}, {}
    if method != "energy":
        training = training.usable()
    if method in ("knn", "energy+knn"):
        more, tensors = neighbours.fit(training.features[bank_rows(strata(training.targets))])
        about |= more
    elif method in UNIT_RESIDUAL:
        more, tensors = residual.fit(training.features, training.logits, task, unit=UNIT_RESIDUAL[method])
        about |= more
    elif method in GAUSSIAN:
        tensors = gaussian.fit(training.features, members(training.targets), **GAUSSIAN[method])
    if method == "energy+knn":
        parts = {part: score(features, logits, about | {"method": part}, tensors) for part in PARTS}
        about["scales"] = {part: _scale(scores) for part, scores in parts.items()}
    scores = score(features, logits, about, tensors)
    return Fitted(about | limit(scores, false_rejection), tensors, scores)


def limit(scores: np.ndarray, false_rejection: float) -> dict[str, float]:
    """{threshold, false_rejection} where at most `false_rejection` of the familiar images' `scores` lie above it."""
    # "higher" picks an observed score, so that at most the wanted share lies strictly above it
    threshold = float(np.quantile(scores, 1 - false_rejection, method="higher"))
    return {"threshold": threshold, "false_rejection": float(np.mean(scores > threshold))}


def score(
    features: np.ndarray | ShardTable, logits: np.ndarray, about: dict, tensors: dict[str, np.ndarray]
) -> np.ndarray:
    """(N,) float32, high = unfamiliar. features: (N, D), CHUNK rows in memory at once; logits: (N, K) uncalibrated."""
    out = np.empty(len(logits), np.float32)
    for start in range(0, len(logits), CHUNK):
        part = slice(start, start + CHUNK)
        found = _score(features[part], logits[part], about, tensors)
        with np.errstate(over="ignore"):  # beyond float32 is infinite, and so FAR
            found = found.astype(np.float32)
        out[part] = np.where(np.isfinite(found), found, FAR)
    return out


def read_tensors(path: Path | str) -> dict[str, np.ndarray]:
    """Tensors of ood.safetensors as float32: converting the bank on each request would cost more than the search."""
    from safetensors.numpy import load_file

    return {name: value.astype(np.float32) for name, value in load_file(path).items()}


def members(targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(rows, classes): class classes[i] has the image rows[i].

    An image with several labels is in several classes; images without a label are a class of their own.
    """
    if targets.ndim == 1:
        return np.arange(len(targets)), targets
    given = np.column_stack([targets > 0, ~(targets > 0).any(axis=1)])
    return np.nonzero(given)


def strata(targets: np.ndarray) -> np.ndarray:
    """(M,) a number for each class, or for each set of labels of multi-label `targets`."""
    return targets if targets.ndim == 1 else np.unique(targets, axis=0, return_inverse=True)[1].reshape(-1)


def _scale(scores: np.ndarray) -> list[float]:
    """[median, spread] of a part's scores on the calibration split."""
    known = scores[scores < FAR].astype(np.float64)
    if not len(known):
        return [0.0, 1.0]
    return [float(np.median(known)), float(max(known.std(), 1e-6))]


def _score(features: np.ndarray, logits: np.ndarray, about: dict, tensors: dict[str, np.ndarray]) -> np.ndarray:
    method = about["method"]
    if method == "energy":
        return energy.score(logits, about["task"])
    if method == "knn":
        return neighbours.score(features, about, tensors)
    if method == "energy+knn":
        parts = {part: _score(features, logits, about | {"method": part}, tensors) for part in PARTS}
        scaled = np.stack([(parts[part] - centre) / spread for part, (centre, spread) in about["scales"].items()])
        return np.clip(np.where(np.isfinite(scaled), scaled, np.nan), -FARTHEST, FARTHEST).sum(axis=0)
    if method in UNIT_RESIDUAL:
        return residual.score(features, logits, about, tensors, unit=UNIT_RESIDUAL[method])
    return gaussian.score(features, tensors, unit=GAUSSIAN[method]["unit"])
