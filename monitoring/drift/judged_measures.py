"""The measures that are judged together: distances, thresholds, and what is drift.

A measure that fails becomes a finding with status "error"; the others are not affected. N rows of the window, M of the
reference, K classes, C categories.
"""

from collections.abc import Callable

import numpy as np

from monitoring.contracts import Finding
from monitoring.drift import calibration, distances, domain_classifier, wording
from monitoring.drift.arrays import CATEGORIES, NO_LABEL, SampleArrays
from monitoring.drift.calibration import NullDistribution
from monitoring.drift.reference import Reference
from tasks.common.params import DriftParams

LEAST = 10  # rows that each side needs to compare distributions


class TooFewValues(Exception):
    """There are too few values to compare."""


class JudgedMeasures:
    """The judged measures of one window against one reference."""

    def __init__(self, window: SampleArrays, reference: Reference, params: DriftParams):
        self.window, self.reference, self.params = window, reference, params
        self.scores: np.ndarray | None = None  # (N,) of the domain classifier, after `embedding` ran

    def findings(self) -> list[Finding]:
        """One finding per measure; a single error if there are too few rows for any of them."""
        try:
            null = calibration.calibrate(self.reference, len(self.window), self.params)
        except ValueError as error:
            return [Finding(name="rows", status="error", value=len(self.window), detail=f"not compared: {error}")]
        found = []
        for name in calibration.number_measures(self.reference.arrays):
            found += isolated(name, lambda name=name: self.number(name, null))
        for name in (f"image.{category}" for category in CATEGORIES):
            found += isolated(name, lambda name=name: self.category(name, null))
        found += isolated("ood.rate", lambda: self.ood_rate(null))
        found += isolated("prediction.mix", lambda: self.mix(null))
        found += isolated("prediction.probabilities", lambda: self.probabilities(null))
        found += isolated("prediction.mean", lambda: self.mean(null))
        found += isolated("embedding", lambda: self.embedding(null))
        return found

    def number(self, name: str, null: NullDistribution) -> Finding:
        """Kolmogorov-Smirnov distance of one number: an image property, the confidence or the OOD score."""
        column = name.removeprefix("image.")
        now, was = (finite(side.numbers[column], name) for side in self._sides())
        n = distances.effective(len(now), len(was))
        distance = distances.ks(now, np.sort(was))
        bound = distances.ks_at(null.level, n)
        detail = wording.describe_numbers(column, now, was)
        return _judge(name, distance, bound, float(distances.ks_p(distance, n)), null, detail)

    def category(self, name: str, null: NullDistribution) -> Finding:
        """Stability index of one category: file format, colour mode or EXIF orientation."""
        column = name.removeprefix("image.")
        now, was = (side.categories[column] for side in self._sides())
        names = calibration.distinct_categories(now, was)
        return self.shares(name, null, now[:, None] == names, was[:, None] == names, names.tolist(), f"{column}: ")

    def ood_rate(self, null: NullDistribution) -> Finding:
        """Stability index of the share of images above the model's OOD threshold."""
        threshold = self.reference.ood_threshold
        sides = [calibration.share_measures(side, threshold)["ood.rate"] for side in self._sides()]
        found = self.shares("ood.rate", null, *sides, ["familiar", "unfamiliar"])
        now, was = (wording.percent(side[:, 1].sum() / max(side.sum(), 1)) for side in sides)
        return found.model_copy(update={"detail": f"{now} of images are unfamiliar (was {was})"})

    def mix(self, null: NullDistribution) -> Finding:
        """Stability index of the predicted classes."""
        names = [*self.reference.classes, NO_LABEL]
        now, was = (side.predicted for side in self._sides())
        found = self.shares("prediction.mix", null, now, was, names)
        divergence = distances.kl(now.sum(axis=0), was.sum(axis=0))
        return found.model_copy(update={"detail": f"{found.detail}; KL divergence {divergence:.3f} nats"})

    def shares(
        self, name: str, null: NullDistribution, now: np.ndarray, was: np.ndarray, names: list[str], before: str = ""
    ) -> Finding:
        """Stability index of shares; now: (N, C) bool, was: (M, C) bool, names: C or more."""
        counts = [side.sum(axis=0) for side in (now, was)]
        if min(count.sum() for count in counts) < LEAST:
            return too_few(name, *(int(count.sum()) for count in counts))
        n, scale = distances.effective(*(count.sum() for count in counts)), null.scales.get(name, 1.0)
        index, width = float(distances.psi(*counts)), len(counts[0])
        bound = scale * distances.psi_at(null.level, n, width)
        detail = before + wording.describe_shares(names, *(count / count.sum() for count in counts))
        return _judge(name, index, bound, float(distances.psi_p(index / scale, n, width)), null, detail)

    def probabilities(self, null: NullDistribution) -> Finding:
        """The largest Kolmogorov-Smirnov distance of one class's probability, corrected for K classes."""
        sides = [side.probabilities[np.isfinite(side.probabilities).all(axis=1)] for side in self._sides()]
        name = "prediction.probabilities"
        if min(map(len, sides)) < LEAST:
            return too_few(name, *map(len, sides))
        now, was = sides
        n, classes = distances.effective(len(now), len(was)), self.reference.classes
        found = np.array([distances.ks(now[:, k], np.sort(was[:, k])) for k in range(len(classes))])
        worst = int(found.argmax())
        p = float(np.clip(distances.ks_p(found[worst], n) * len(classes), distances.LEAST, 1))
        bound = distances.ks_at(null.level / len(classes), n)
        means = f"(mean {now[:, worst].mean():.2f}, was {was[:, worst].mean():.2f})"
        detail = f"the probabilities of {wording.quoted(classes[worst])} moved most {means}"
        return _judge(name, float(found[worst]), bound, p, null, detail)

    def mean(self, null: NullDistribution) -> Finding:
        """Distance of the mean probabilities along the reference's whitened directions."""
        now, was = (side.probabilities[np.isfinite(side.probabilities).all(axis=1)] for side in self._sides())
        if min(len(now), len(was)) < LEAST:
            return too_few("prediction.mean", len(now), len(was))
        axes = distances.whitening(was)
        n, scale = distances.effective(len(now), len(was)), np.sqrt(null.scales.get("prediction.mean", 1.0))
        gap = now.mean(axis=0) - was.mean(axis=0)
        distance, width = float(np.linalg.norm(gap @ axes)), axes.shape[1]
        p = float(distances.mean_p(distance / scale, n, width))
        bound = scale * distances.mean_at(null.level, n, width)
        k = int(np.abs(gap).argmax())
        means = f"(mean {now[:, k].mean():.2f}, was {was[:, k].mean():.2f})"
        detail = f"the mean probability of {wording.quoted(self.reference.classes[k])} moved most {means}"
        return _judge("prediction.mean", distance, bound, p, null, detail)

    def embedding(self, null: NullDistribution) -> Finding:
        """How well the domain classifier tells the window's features from the reference's; keeps its scores."""
        rows = np.isfinite(self.window.features).all(axis=1)
        base = self.reference.arrays.features
        base = base[np.isfinite(base).all(axis=1)][: calibration.LARGEST]
        n, m = int(rows.sum()), len(base)
        if min(n, m) < LEAST or not base.shape[1]:
            return too_few("embedding", n, m)
        rng = np.random.default_rng([self.params.seed, n])
        x = np.vstack(domain_classifier.project(self.window.features[rows], base))
        inside = (np.arange(n + m) < n)[:, None]
        fold = np.concatenate([domain_classifier.folds(n, rng), domain_classifier.folds(m, rng)])
        scores = domain_classifier.out_of_fold(x, fold, inside)
        (auc,), (z,) = domain_classifier.surprise(scores, fold, inside)
        self.scores = np.full(len(self.window), np.nan)
        self.scores[rows] = scores[:n, 0]
        scale = null.scales.get("embedding", 1.0)
        bound = 2 * scale * calibration.embedding_at(null.level) * float(domain_classifier.error(n, m))
        detail = (
            f"a classifier tells the window's features from the reference's (area under its ROC curve {auc:.2f}, "
            "0.50 is chance; the value is twice the area above chance)"
        )
        p = float(calibration.embedding_p(z / scale))
        return _judge("embedding", max(2 * float(auc) - 1, 0.0), bound, p, null, detail)

    def _sides(self) -> tuple[SampleArrays, SampleArrays]:
        return self.window, self.reference.arrays


def _judge(name: str, value: float, bound: float, p: float, null: NullDistribution, detail: str) -> Finding:
    return Finding(
        name=name,
        status="drifted" if p < null.level else "ok",
        value=value,
        threshold=bound,
        p_value=null.family_p(p),
        detail=detail,
    )


def too_few(name: str, rows: int, reference_rows: int) -> Finding:
    """An error: one side has too few rows."""
    detail = f"{rows} usable rows of the window, {reference_rows} of the reference: {LEAST} of each are needed"
    return Finding(name=name, status="error", detail=detail)


def finite(values: np.ndarray, name: str) -> np.ndarray:
    """The finite `values`. Raises TooFewValues."""
    values = values[np.isfinite(values)]
    if len(values) < LEAST:
        raise TooFewValues(f"{len(values)} usable values: {LEAST} are needed on either side")
    return values


def isolated(name: str, found: Callable[[], Finding | None]) -> list[Finding]:
    """The finding of `found`, or an error finding if it raises.

    One broken column must not stop the report.
    """
    try:
        finding = found()
    except TooFewValues as error:
        return [Finding(name=name, status="error", detail=str(error))]
    except Exception as error:
        return [Finding(name=name, status="error", detail=f"{type(error).__name__}: {error}")]
    return [finding] if finding is not None else []
