"""Choose a model's out-of-distribution score by what it finds, near and far, and wrongly rejects.

Which score is best depends on the network and the data, so `ood_method: auto` measures each of METHODS on this model:

- near unknowns: classes that are left out of the score and of a classifier fitted again on the features. The network
  itself may have seen them: what is found is an upper bound. With two classes: mixtures of images of both
- far unknowns: pure noise, flat colours, textures
- known images that are darker, blurred, noisy or compressed: a new camera is not a new class. These must not be flagged

A small pure function (`choose`) decides. N images, M training images, K classes, D feature dimensions, AUROC in points.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from tasks.common.cores import on_all_cores
from tasks.inference.ood.scores import METHODS, Training, bank_rows, fit, members, score, strata

ROWS = 1000  # of training images while scores are compared: more cost seconds; the chosen one is fitted on all
GROUPS = 4  # of classes that are left out, one group after the other
KNOWN, LEAST = "knn", 1.0  # another score must be better than this one by so many points
FAR_WEIGHT = SHIFT_WEIGHT = 0.5  # a point of far AUROC, a point of shifted images flagged, in points of near AUROC


@dataclass(frozen=True)
class Seen:
    """What the model makes of N images: features (N, D) and logits (N, K)."""

    features: np.ndarray
    logits: np.ndarray


@dataclass(frozen=True)
class Finding:
    """What one score finds, in points: near and far AUROC, share of shifted known images that it flags."""

    near: float
    far: float
    shifted: float

    @property
    def value(self) -> float:
        return self.near + FAR_WEIGHT * self.far - SHIFT_WEIGHT * self.shifted


def choose(found: Mapping[str, Finding]) -> str:
    """The method with the greatest value; kNN unless another is better by LEAST points."""
    best = max(found, key=lambda name: found[name].value)
    if KNOWN in found and found[best].value < found[KNOWN].value + LEAST:
        return KNOWN
    return best


def compare(
    methods: Sequence[str],
    training: Training,
    known: Seen,
    targets: np.ndarray,
    near: Mapping[str, Seen],
    far: Mapping[str, Seen],
    shifted: Mapping[str, Seen],
    false_rejection: float,
    task: str,
) -> dict[str, Finding]:
    """What each of `methods` finds. known: calibration images of `targets`; near: mixtures, used where K < 3."""
    few = training.taken(bank_rows(strata(training.targets), ROWS))
    left_out = _left_out(methods, few, known, targets, task)

    def finding(method: str) -> Finding:
        about, tensors, scores = fit(method, few, known.features, known.logits, false_rejection, task)
        of = [
            [score(seen.features, seen.logits, about, tensors) for seen in kind.values()]
            for kind in (near, far, shifted)
        ]
        nearest = left_out[method] if left_out else [auroc(scores, one) for one in of[0]]
        return Finding(
            float(np.mean(nearest)) if nearest else 50.0,
            float(np.mean([auroc(scores, one) for one in of[1]])),
            100 * float(np.mean([np.mean(one > about["threshold"]) for one in of[2]])),
        )

    return dict(zip(methods, on_all_cores(finding, methods), strict=True))


def auroc(known: np.ndarray, unknown: np.ndarray) -> float:
    """Share of pairs in which the unknown image has the higher score, in points; ties count half."""
    # scipy.stats ranks, too, and takes more than a second to import
    _, place, times = np.unique(np.concatenate([known, unknown]), return_inverse=True, return_counts=True)
    ranks = (np.cumsum(times) - (times - 1) / 2)[place[len(known) :]]
    return float(100 * (ranks.mean() - (len(unknown) + 1) / 2) / len(known))


def class_groups(classes: int, groups: int = GROUPS, seed: int = 0) -> list[np.ndarray]:
    """Disjoint groups of class numbers to leave out, one at a time; at least two classes remain with each."""
    if classes < 3:
        return []
    order = np.random.default_rng(seed).permutation(classes)
    parts = np.array_split(order, min(groups, classes))
    return [np.sort(part) for part in parts if classes - len(part) >= 2]


def without(targets: np.ndarray, left_out: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """(is an image of a class of `left_out` (N,), targets in the remaining classes; of these images meaningless)."""
    kept = np.setdiff1d(np.arange(classes), left_out)
    if targets.ndim == 2:
        return (targets[:, left_out] > 0).any(axis=1), targets[:, kept]
    return np.isin(targets, left_out), np.minimum(np.searchsorted(kept, targets), len(kept) - 1)


def _left_out(
    methods: Sequence[str], training: Training, known: Seen, targets: np.ndarray, task: str
) -> dict[str, list[float]]:
    """Method -> AUROC of images of left-out classes, for each group of classes with enough images."""
    classes = known.logits.shape[1]

    def without_group(group: np.ndarray) -> dict[str, float]:
        gone, rest = without(training.targets, group, classes)
        unknown, _ = without(targets, group, classes)
        present = np.unique(members(rest[~gone])[1])
        if min(unknown.sum(), (~unknown).sum()) < 5 or len(present) < 2:
            return {}
        x, held = np.asarray(training.features[~gone], np.float32), np.asarray(known.features, np.float32)
        logits, of_held = _classify(x, rest[~gone], held, classes - len(group))
        part, told = Training(x, logits, rest[~gone]), {}
        for method in methods:
            seen = fit(method, part, held[~unknown], of_held[~unknown], 0.05, task)
            told[method] = auroc(seen.scores, score(held[unknown], of_held[unknown], seen.about, seen.tensors))
        return told

    found: dict[str, list[float]] = {}
    for told in on_all_cores(without_group, class_groups(classes)):
        for method, value in told.items():
            found.setdefault(method, []).append(value)
    return found


def _classify(x: np.ndarray, y: np.ndarray, held: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Logits of `x` (M, D) and `held` (N, D) by a linear classifier fitted on `x` and `y`."""
    from tasks.models import probe

    classifier = probe.fit(x, y, classes)
    return classifier.logits(x), classifier.logits(held)


def as_json(found: Mapping[str, Finding]) -> dict[str, dict[str, float]]:
    """{method: {near, far, shifted, value}}, the best first."""
    order = sorted(found, key=lambda name: -found[name].value)
    return {name: {**asdict(found[name]), "value": found[name].value} for name in order}


def asked(method: str) -> Sequence[str]:
    """The methods to compare for `calibrate.ood_method`."""
    return METHODS if method == "auto" else (method,)
