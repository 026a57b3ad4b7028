"""Calibrate drift thresholds: the null distribution of the smallest p-value over all measures.

Windows without drift are drawn as in production, *and so is the reference*. B times, the M reference rows are split
into a window and the rest, and both are measured against each other. Drawing windows against a fixed reference would
make them too similar to it: such thresholds call 5 to 100 % of windows drift instead of 1 % (measured, 600 rows).
Each split gives the smallest p-value over all measures. One threshold therefore holds for all measures together, and
accounts for their correlation (Westfall & Young 1993, "Resampling-based multiple testing": min-p).
"""

import io
from dataclasses import dataclass

import numpy as np

from monitoring.drift import distances, domain_classifier
from monitoring.drift.arrays import CATEGORIES, SampleArrays
from monitoring.drift.reference import Reference
from tasks.common.code import code_version
from tasks.common.files import content_key
from tasks.common.params import DriftParams
from tasks.common.sealed import read_sealed, sealed_path

SIZES = (10, 15, 20, 30, 40, 60, 80, 100, 150, 200, 300, 400, 600, 800, 1000)  # calibrated window sizes
LARGEST = 2000  # reference rows to split; more cost time and hardly change a threshold
JUDGED = 0.9  # share of the false alarm rate; the rest is for missing values, which no split of a reference shows


@dataclass(frozen=True)
class NullDistribution:
    """What windows of about `rows` rows look like without drift."""

    rows: int
    minima: np.ndarray  # (B,) smallest p-value of each split, ascending
    scales: dict[str, float]  # measure -> how much wider it spreads than theory says
    level: float  # p-values below it are drift

    def family_p(self, p: float) -> float:
        """Share of windows without drift in which some measure is as surprising as `p`."""
        return float((1 + np.searchsorted(self.minima, p, side="right")) / (1 + len(self.minima)))


def calibrate(reference: Reference, rows: int, drift: DriftParams) -> NullDistribution:
    """The null distribution for windows of `rows` rows, from the cache if possible.

    Raises ValueError if there are too few rows.
    """
    rows = calibrated_size(rows, len(reference))
    key = content_key(reference.digest, rows, drift.resamples, drift.seed, code_version("monitoring.drift.calibration"))
    file = reference.cache / reference.digest[:16] / f"{key[:32]}.npz"
    if (content := read_sealed(file)) is not None:
        with np.load(io.BytesIO(content), allow_pickle=False) as kept:
            minima, names, scales = kept["minima"], kept["names"].tolist(), kept["scales"].tolist()
    else:
        p, found = split_reference(reference, rows, drift)
        minima, names, scales = np.sort(np.min(list(p.values()), axis=0)), list(found), list(found.values())
        buffer = io.BytesIO()
        np.savez(buffer, minima=minima, names=np.array(names, str), scales=np.array(scales))
        with sealed_path(file) as temporary:
            temporary.write_bytes(buffer.getvalue())
    return NullDistribution(
        rows, minima, dict(zip(names, scales, strict=True)), drift_level(minima, drift.false_alarm_rate)
    )


def calibrated_size(rows: int, reference_rows: int) -> int:
    """The calibrated window size for `rows` rows.

    At most half the reference, since the other half must remain.
    """
    fitting = [size for size in SIZES if size <= min(rows, min(reference_rows, LARGEST) // 2)]
    if not fitting:
        raise ValueError(f"{rows} rows against {reference_rows} of the reference: {SIZES[0]} and {2 * SIZES[0]} needed")
    return fitting[-1]


def drift_level(minima: np.ndarray, rate: float) -> float:
    """The p-value below which a share JUDGED * `rate` of windows without drift lies. minima: ascending."""
    return float(minima[max(int(JUDGED * rate * (len(minima) + 1)), 1) - 1])


def split_reference(
    reference: Reference, rows: int, drift: DriftParams
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """(p-values (B,) by measure, scales by measure) of B splits into `rows` rows and the rest."""
    rng = np.random.default_rng([drift.seed, rows])
    arrays = reference.arrays
    if len(arrays) > LARGEST:
        arrays = arrays.take(np.sort(rng.permutation(len(arrays))[:LARGEST]))
    fold = domain_classifier.folds(len(arrays), rng)
    chosen = _choices(fold, rows, drift.resamples, rng)  # (B, M)
    p, scales = {}, {}
    for name, values in number_measures(arrays).items():
        p[name] = distances.ks_p(*distances.ks_splits(values, chosen))
    p["prediction.probabilities"] = joint_ks_p([distances.ks_splits(v, chosen) for v in arrays.probabilities.T])
    whole = np.isfinite(arrays.probabilities).all(axis=1)
    if whole.sum() > 1:
        points = arrays.probabilities[whole]
        points = points @ distances.whitening(points)
        part = chosen[:, whole].astype(np.float64)
        count, taken = part.sum(axis=1, keepdims=True), part @ points
        others = len(points) - count
        gap = taken / np.maximum(count, 1) - (points.sum(axis=0) - taken) / np.maximum(others, 1)
        n, gap = distances.effective(count[:, 0], others[:, 0]), np.linalg.norm(gap, axis=1)
        scale = scales["prediction.mean"] = max(float((n * gap**2).mean()) / max(points.shape[1], 1), 0.1)
        p["prediction.mean"] = distances.mean_p(gap / np.sqrt(scale), n, points.shape[1])
    for name, member in share_measures(arrays, reference.ood_threshold).items():
        inside = chosen.astype(np.float32) @ member.astype(np.float32)  # (B, C)
        outside = member.sum(axis=0) - inside
        n = distances.effective(inside.sum(axis=1), outside.sum(axis=1))
        index = distances.psi(inside, outside)
        scales[name] = max(float((n * index).mean()) / max(member.shape[1] - 1, 1), 1.0)
        p[name] = distances.psi_p(index / scales[name], n, member.shape[1])
    known = np.isfinite(arrays.features).all(axis=1)
    if known.any() and arrays.features.shape[1]:
        _, x = domain_classifier.project(arrays.features[known][:1], arrays.features[known])
        part = chosen[:, known].T
        _, z = domain_classifier.surprise(domain_classifier.out_of_fold(x, fold[known], part), fold[known], part)
        scales["embedding"] = max(float(z.std()), 0.1)
        p["embedding"] = embedding_p(z / scales["embedding"])
    return p, scales


def number_measures(arrays: SampleArrays) -> dict[str, np.ndarray]:
    """The numbers that are compared by their distribution: name of the finding -> (N,)."""
    return {(name if name in ("confidence", "ood") else f"image.{name}"): v for name, v in arrays.numbers.items()}


def share_measures(arrays: SampleArrays, ood_threshold: float) -> dict[str, np.ndarray]:
    """What is compared by shares: name of the finding -> (N, C) bool.

    A row has no True if its value is missing.
    """
    scores = arrays.numbers["ood"]
    found = {
        "prediction.mix": arrays.predicted,
        "ood.rate": np.column_stack([scores <= ood_threshold, scores > ood_threshold]),
    }
    for name in CATEGORIES:
        found[f"image.{name}"] = arrays.categories[name][:, None] == distinct_categories(arrays.categories[name])
    return found


def distinct_categories(*values: np.ndarray) -> np.ndarray:
    """(C,) categories that occur, sorted; "" does not count."""
    return np.array(sorted(set(np.concatenate(values)) - {""}), str)


def joint_ks_p(found: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """One p-value for K columns of (distances, effective sizes).

    Separately, they would outvote the other measures.
    """
    least = np.min([distances.ks_p(*pair) for pair in found], axis=0)
    return np.clip(least * len(found), distances.LEAST, 1)


def embedding_p(z: np.ndarray | float) -> np.ndarray:
    """Probability, without drift, of an area `z` standard errors above chance."""
    from scipy.special import ndtr

    return np.clip(ndtr(-np.asarray(z)), distances.LEAST, 1)


def embedding_at(p: float) -> float:
    """Standard errors above chance that have probability `p`."""
    from scipy.special import ndtri

    return float(-ndtri(p))


def _choices(fold: np.ndarray, rows: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """(count, M) bool: `rows` rows each, the same number from each fold (plus or minus one)."""
    chosen = np.zeros((count, len(fold)), bool)
    for part in range(domain_classifier.FOLDS):
        here = np.flatnonzero(fold == part)
        quota = rows // domain_classifier.FOLDS + (part < rows % domain_classifier.FOLDS)
        order = np.argsort(rng.random((count, len(here)), np.float32), axis=1)[:, :quota]
        np.put_along_axis(chosen, here[order], True, axis=1)
    return chosen
