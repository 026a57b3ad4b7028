"""The measures that are judged together: each one's distance, its threshold, and whether it is drift.

N rows of the window, M of the reference, K classes, C categories. Nothing here raises: a measure that cannot be taken
is a finding with status "error", and costs no other.
"""

from collections.abc import Callable

import numpy as np

from monitoring.contracts import Finding
from monitoring.drift import calibration, distances, domain_classifier, wording
from monitoring.drift.arrays import CATEGORIES, NO_LABEL, Side
from monitoring.drift.calibration import Null
from monitoring.drift.reference import Reference
from tasks.common.params import DriftParams

LEAST = 10  # rows on each side for a distribution to be compared


class TooFew(Exception):
    """Too few values to compare."""


class Compared:
    """The measures that are judged together."""

    def __init__(self, side: Side, reference: Reference, params: DriftParams):
        self.side, self.reference, self.params = side, reference, params
        self.scores: np.ndarray | None = None  # (N,) of the domain classifier, once `embedding` ran

    def findings(self) -> list[Finding]:
        try:
            null = calibration.calibrated(self.reference, len(self.side), self.params)
        except ValueError as error:
            return [Finding(name="rows", status="error", value=len(self.side), detail=f"not compared: {error}")]
        found = []
        for name in calibration.columns(self.reference.side):
            found += isolated(name, lambda name=name: self.number(name, null))
        for name in (f"image.{category}" for category in CATEGORIES):
            found += isolated(name, lambda name=name: self.category(name, null))
        found += isolated("ood.rate", lambda: self.ood_rate(null))
        found += isolated("prediction.mix", lambda: self.mix(null))
        found += isolated("prediction.probabilities", lambda: self.probabilities(null))
        found += isolated("prediction.mean", lambda: self.mean(null))
        found += isolated("embedding", lambda: self.embedding(null))
        return found

    def number(self, name: str, null: Null) -> Finding:
        column = name.removeprefix("image.")
        now, was = (finite(side.numbers[column], name) for side in (self.side, self.reference.side))
        n = distances.effective(len(now), len(was))
        distance = distances.ks(now, np.sort(was))
        bound = distances.ks_at(null.level, n)
        detail = wording.moved(column, now, was)
        return judged(name, distance, bound, float(distances.ks_p(distance, n)), null, detail)

    def category(self, name: str, null: Null) -> Finding:
        column = name.removeprefix("image.")
        now, was = self.side.categories[column], self.reference.side.categories[column]
        names = calibration.categories(now, was)
        return self.shares(name, null, now[:, None] == names, was[:, None] == names, names.tolist(), f"{column}: ")

    def ood_rate(self, null: Null) -> Finding:
        sides = [
            calibration.counted(s, self.reference.ood_threshold)["ood.rate"] for s in (self.side, self.reference.side)
        ]
        found = self.shares("ood.rate", null, *sides, ["familiar", "unfamiliar"])
        now, was = (wording.percent(side[:, 1].sum() / max(side.sum(), 1)) for side in sides)
        return found.model_copy(update={"detail": f"{now} of images are unfamiliar (was {was})"})

    def mix(self, null: Null) -> Finding:
        names = [*self.reference.classes, NO_LABEL]
        found = self.shares("prediction.mix", null, self.side.predicted, self.reference.side.predicted, names)
        divergence = distances.kl(self.side.predicted.sum(axis=0), self.reference.side.predicted.sum(axis=0))
        return found.model_copy(update={"detail": f"{found.detail}; KL divergence {divergence:.3f} nats"})

    def shares(
        self, name: str, null: Null, now: np.ndarray, was: np.ndarray, names: list[str], before: str = ""
    ) -> Finding:
        """now (N, C) and was (M, C) bool, names: C or more."""
        counts = [side.sum(axis=0) for side in (now, was)]
        if min(count.sum() for count in counts) < LEAST:
            return too_few(name, *(int(count.sum()) for count in counts))
        n, scale = distances.effective(*(count.sum() for count in counts)), null.scales.get(name, 1.0)
        index, width = float(distances.psi(*counts)), len(counts[0])
        bound = scale * distances.psi_at(null.level, n, width)
        detail = before + wording.mixed(names, *(count / count.sum() for count in counts))
        return judged(name, index, bound, float(distances.psi_p(index / scale, n, width)), null, detail)

    def probabilities(self, null: Null) -> Finding:
        sides = [
            side.probabilities[np.isfinite(side.probabilities).all(axis=1)] for side in (self.side, self.reference.side)
        ]
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
        detail = f"the probabilities of {wording.quoted(classes[worst])} have moved most {means}"
        return judged(name, float(found[worst]), bound, p, null, detail)

    def mean(self, null: Null) -> Finding:
        sides = (self.side.probabilities, self.reference.side.probabilities)
        now, was = (side[np.isfinite(side).all(axis=1)] for side in sides)
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
        detail = f"the mean probability of {wording.quoted(self.reference.classes[k])} has moved most {means}"
        return judged("prediction.mean", distance, bound, p, null, detail)

    def embedding(self, null: Null) -> Finding:
        rows = np.isfinite(self.side.features).all(axis=1)
        base = self.reference.side.features
        base = base[np.isfinite(base).all(axis=1)][: calibration.LARGEST]
        n, m = int(rows.sum()), len(base)
        if min(n, m) < LEAST or not base.shape[1]:
            return too_few("embedding", n, m)
        rng = np.random.default_rng([self.params.seed, n])
        x = np.vstack(domain_classifier.project(self.side.features[rows], base))
        inside = (np.arange(n + m) < n)[:, None]
        fold = np.concatenate([domain_classifier.folds(n, rng), domain_classifier.folds(m, rng)])
        scores = domain_classifier.out_of_fold(x, fold, inside)
        (auc,), (z,) = domain_classifier.surprise(scores, fold, inside)
        self.scores = np.full(len(self.side), np.nan)
        self.scores[rows] = scores[:n, 0]
        scale = null.scales.get("embedding", 1.0)
        bound = 2 * scale * calibration.embedding_at(null.level) * float(domain_classifier.error(n, m))
        detail = (
            f"a classifier tells the window's features from the reference's (area under its ROC curve {auc:.2f}, "
            "0.50 is chance; the value is twice what lies above chance)"
        )
        p = float(calibration.embedding_p(z / scale))
        return judged("embedding", max(2 * float(auc) - 1, 0.0), bound, p, null, detail)


def judged(name: str, value: float, bound: float, p: float, null: Null, detail: str) -> Finding:
    return Finding(
        name=name,
        status="drifted" if p < null.level else "ok",
        value=value,
        threshold=bound,
        p_value=null.family(p),
        detail=detail,
    )


def too_few(name: str, rows: int, reference_rows: int) -> Finding:
    detail = f"{rows} usable rows of the window, {reference_rows} of the reference: {LEAST} of each are needed"
    return Finding(name=name, status="error", detail=detail)


def finite(values: np.ndarray, name: str) -> np.ndarray:
    values = values[np.isfinite(values)]
    if len(values) < LEAST:
        raise TooFew(f"{len(values)} usable values: {LEAST} are needed on either side")
    return values


def isolated(name: str, found: Callable[[], Finding | None]) -> list[Finding]:
    """What `found` finds; an error of its own where it raises: one broken column must not cost the report."""
    try:
        finding = found()
    except TooFew as error:
        return [Finding(name=name, status="error", detail=str(error))]
    except Exception as error:
        return [Finding(name=name, status="error", detail=f"{type(error).__name__}: {error}")]
    return [finding] if finding is not None else []
