"""How small does the least p-value of all measures get without drift? Asked of one model's own reference.

Windows without drift are drawn as in production, *and so is the reference*: B times the M reference rows are split into
a window and the rest, and both are measured against each other. A window drawn from a reference that itself stays
fixed would be too like it: its thresholds call 5 to 100 % of windows drift instead of 1 % (measured, 600 rows).
The least p-value over all measures is taken in each split, so one threshold holds for all of them together and knows
how much they say the same (Westfall & Young 1993, "Resampling-based multiple testing": min-p).
"""

import io
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from monitoring.drift import distances, domain_classifier
from monitoring.drift.arrays import CATEGORIES, Side
from monitoring.drift.reference import Reference
from tasks.common.code import code_version
from tasks.common.files import atomic_path, content_key
from tasks.common.params import DriftParams

SIZES = (10, 15, 20, 30, 40, 60, 80, 100, 150, 200, 300, 400, 600, 800, 1000)  # of windows that are calibrated for
LARGEST = 2000  # reference rows that are split; more cost time and hardly move a threshold
JUDGED = 0.9  # of the false alarm rate; the rest is for missing values, which a reference cannot be split for


@dataclass(frozen=True)
class Null:
    """What windows of about `rows` rows look like without drift."""

    rows: int
    minima: np.ndarray  # (B,) the least p-value of each, ascending
    scales: dict[str, float]  # by measure: how much wider it spreads than theory says
    level: float  # p-values below are drift

    def family(self, p: float) -> float:
        """Share of windows without drift in which some measure is as surprising as `p`."""
        return float((1 + np.searchsorted(self.minima, p, side="right")) / (1 + len(self.minima)))


def size(rows: int, reference_rows: int) -> int:
    """The calibrated window size for `rows` rows: at most half the reference, as the other half must be left."""
    fitting = [size for size in SIZES if size <= min(rows, min(reference_rows, LARGEST) // 2)]
    if not fitting:
        raise ValueError(f"{rows} rows against {reference_rows} of the reference: {SIZES[0]} and {2 * SIZES[0]} needed")
    return fitting[-1]


def calibrated(reference: Reference, rows: int, drift: DriftParams) -> Null:
    """The null of windows of `rows` rows, from the cache where it is there. Raises ValueError for too few rows."""
    return _calibrated(reference.digest, str(reference.cache), size(rows, len(reference)), drift, _Hidden(reference))


class _Hidden:
    """An argument that is no part of the memory's key: the digest names the reference already."""

    def __init__(self, value: Reference):
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Hidden)

    def __hash__(self) -> int:
        return 0


@lru_cache(maxsize=16)
def _calibrated(digest: str, cache: str, rows: int, drift: DriftParams, hidden: _Hidden) -> Null:
    reference = hidden.value
    key = content_key(digest, rows, drift.resamples, drift.seed, code_version("monitoring.drift.calibration"))
    file = reference.cache / digest[:16] / f"{key[:32]}.npz"
    try:
        with np.load(file, allow_pickle=False) as kept:
            minima, names, scales = kept["minima"], kept["names"].tolist(), kept["scales"].tolist()
    except (OSError, ValueError, KeyError, EOFError):  # not there, or torn: made again
        p, found = split(reference, rows, drift)
        minima, names, scales = np.sort(np.min(list(p.values()), axis=0)), list(found), list(found.values())
        buffer = io.BytesIO()
        np.savez(buffer, minima=minima, names=np.array(names, str), scales=np.array(scales))
        with atomic_path(file) as temporary:
            temporary.write_bytes(buffer.getvalue())
    return Null(rows, minima, dict(zip(names, scales, strict=True)), level(minima, drift.false_alarm_rate))


def level(minima: np.ndarray, rate: float) -> float:
    """Below it lie the p-values that a share of JUDGED `rate` of windows without drift shows. minima: ascending."""
    return float(minima[max(int(JUDGED * rate * (len(minima) + 1)), 1) - 1])


def split(reference: Reference, rows: int, drift: DriftParams) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """(p-values (B,) by measure, scales by measure) of B splits into `rows` rows and the rest."""
    rng = np.random.default_rng([drift.seed, rows])
    side = reference.side
    if len(side) > LARGEST:
        side = side.take(np.sort(rng.permutation(len(side))[:LARGEST]))
    fold = domain_classifier.folds(len(side), rng)
    chosen = _choices(fold, rows, drift.resamples, rng)  # (B, M)
    p, scales = {}, {}
    for name, values in columns(side).items():
        p[name] = distances.ks_p(*distances.ks_splits(values, chosen))
    p["prediction.probabilities"] = grouped([distances.ks_splits(v, chosen) for v in side.probabilities.T])
    whole = np.isfinite(side.probabilities).all(axis=1)
    if whole.sum() > 1:
        points = side.probabilities[whole]
        points = points @ distances.whitening(points)
        part = chosen[:, whole].astype(np.float64)
        count, taken = part.sum(axis=1, keepdims=True), part @ points
        others = len(points) - count
        gap = taken / np.maximum(count, 1) - (points.sum(axis=0) - taken) / np.maximum(others, 1)
        n, gap = distances.effective(count[:, 0], others[:, 0]), np.linalg.norm(gap, axis=1)
        scale = scales["prediction.mean"] = max(float((n * gap**2).mean()) / max(points.shape[1], 1), 0.1)
        p["prediction.mean"] = distances.mean_p(gap / np.sqrt(scale), n, points.shape[1])
    for name, member in counted(side, reference.ood_threshold).items():
        inside = chosen.astype(np.float32) @ member.astype(np.float32)  # (B, C)
        outside = member.sum(axis=0) - inside
        n = distances.effective(inside.sum(axis=1), outside.sum(axis=1))
        index = distances.psi(inside, outside)
        scales[name] = max(float((n * index).mean()) / max(member.shape[1] - 1, 1), 1.0)
        p[name] = distances.psi_p(index / scales[name], n, member.shape[1])
    known = np.isfinite(side.features).all(axis=1)
    if known.any() and side.features.shape[1]:
        _, x = domain_classifier.project(side.features[known][:1], side.features[known])
        part = chosen[:, known].T
        _, z = domain_classifier.surprise(domain_classifier.out_of_fold(x, fold[known], part), fold[known], part)
        scales["embedding"] = max(float(z.std()), 0.1)
        p["embedding"] = embedding_p(z / scales["embedding"])
    return p, scales


def columns(side: Side) -> dict[str, np.ndarray]:
    """Numbers compared by their distribution, by the name of their finding: (N,) each."""
    return {(name if name in ("confidence", "ood") else f"image.{name}"): v for name, v in side.numbers.items()}


def counted(side: Side, ood_threshold: float) -> dict[str, np.ndarray]:
    """What is compared by shares, by the name of its finding: (N, C) bool; no True where it is missing."""
    scores = side.numbers["ood"]
    found = {
        "prediction.mix": side.predicted,
        "ood.rate": np.column_stack([scores <= ood_threshold, scores > ood_threshold]),
    }
    for name in CATEGORIES:
        found[f"image.{name}"] = side.categories[name][:, None] == categories(side.categories[name])
    return found


def categories(*values: np.ndarray) -> np.ndarray:
    """(C,) those that occur, in order; "" is none."""
    return np.array(sorted(set(np.concatenate(values)) - {""}), str)


def grouped(found: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """One p-value for K columns together, (distances, effective sizes) each: else they would outvote every other."""
    least = np.min([distances.ks_p(*pair) for pair in found], axis=0)
    return np.clip(least * len(found), distances.LEAST, 1)


def embedding_p(z: np.ndarray | float) -> np.ndarray:
    from scipy.special import ndtr

    return np.clip(ndtr(-np.asarray(z)), distances.LEAST, 1)


def embedding_at(p: float) -> float:
    """Standard errors above chance of probability `p`."""
    from scipy.special import ndtri

    return float(-ndtri(p))


def _choices(fold: np.ndarray, rows: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """(count, M) bool: `rows` rows each, as many from every fold as from any other, give or take one."""
    chosen = np.zeros((count, len(fold)), bool)
    for part in range(domain_classifier.FOLDS):
        here = np.flatnonzero(fold == part)
        quota = rows // domain_classifier.FOLDS + (part < rows % domain_classifier.FOLDS)
        order = np.argsort(rng.random((count, len(here)), np.float32), axis=1)[:, :quota]
        np.put_along_axis(chosen, here[order], True, axis=1)
    return chosen
