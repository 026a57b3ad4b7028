"""Out-of-fold accuracy of a classifier on pretrained features, for small test splits.

With a handful of groups, the test split holds one or two of them, and some classes have no test image at all. Here each
labelled image is predicted by a linear classifier that saw no image of its group. The backbone is the pretrained one,
because the fine-tuned one has seen the labels. So this says what the data allow, and what the model should reach.
N images, K classes.
"""

import numpy as np

from tasks.models import probe
from tasks.models.folds import assign_folds
from tasks.models.standardised import Features
from tasks.scoring import metrics

SMALL = 100  # test images: an interval of about 10 points on either side
MOST = 20_000  # images: a larger set is not short of test images, only of some rare class
FOLDS = 5
RESAMPLES = 500
CONFIDENCE = 0.95


def too_small(test: np.ndarray, classes: int, images: int) -> bool:
    """Is a test split with targets `test`, of `images` labelled ones, too small, or does it lack a class?"""
    present = np.unique(test) if test.ndim == 1 else np.flatnonzero(test.any(axis=0))
    return len(test) < SMALL or (len(present) < classes and images <= MOST)


def cross_validated(x: Features, y: np.ndarray, classes: list[str], groups: np.ndarray, seed: int = 0) -> dict:
    """Balanced accuracy out of fold with its 95 % interval over groups.

    x: (N, D); y: targets (N,) or (N, K); groups: (N,) names, which are never divided between folds. A class of a single
    group cannot be predicted out of fold: it is left out and named.
    """
    members = y[:, None] == np.arange(len(classes)) if y.ndim == 1 else y > 0
    _, group = np.unique(groups, return_inverse=True)
    several = np.array([len(np.unique(group[has])) > 1 for has in members.T])
    kept = members[:, several].any(axis=1) if y.ndim == 1 else np.ones(len(y), bool)
    found = {
        "images": int(kept.sum()),
        "groups": len(np.unique(group[kept])),
        "single_group": [name for name, fine in zip(classes, several, strict=True) if not fine],
    }
    if several.sum() < 2:
        return found | {"balanced_accuracy": None, "low": None, "high": None}
    rows = np.flatnonzero(kept)
    x, group, members = x[rows], group[rows], members[rows][:, several]
    y = members.argmax(axis=1) if y.ndim == 1 else y[rows][:, several]
    fold = assign_folds(members, group, min(FOLDS, found["groups"]), seed)
    predicted = _out_of_fold(x, y, members, fold)
    low, high = _interval(y, predicted, group, members.shape[1], seed)
    score = metrics.balanced_accuracy(y, predicted, members.shape[1])
    return found | {"balanced_accuracy": round(score, 6), "low": round(low, 6), "high": round(high, 6)}


def _out_of_fold(x: Features, y: np.ndarray, members: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """Answers (N,) or (N, K) bool by class-balanced probes that did not see the row's fold."""
    k = members.shape[1]
    share = 1 / np.maximum(members.sum(axis=0), 1)
    weight = np.where(members.any(axis=1), (members * share).max(axis=1), share.min())
    probes = probe.fit_many(x, y, k, np.stack([weight * (fold != number) for number in range(fold.max() + 1)]))
    logits = probe.select_logits(probes, x, fold)
    return logits.argmax(axis=1) if y.ndim == 1 else logits > 0


def _interval(y: np.ndarray, predicted: np.ndarray, group: np.ndarray, classes: int, seed: int) -> tuple[float, float]:
    """Percentile bootstrap over whole groups: images of one group are not independent."""
    rng = np.random.default_rng(seed)
    names, number = np.unique(group, return_inverse=True)
    rows_of = np.split(np.argsort(number, kind="stable"), np.cumsum(np.bincount(number))[:-1])
    scores = []
    for _ in range(RESAMPLES):
        rows = np.concatenate([rows_of[g] for g in rng.integers(len(names), size=len(names))])
        scores.append(metrics.balanced_accuracy(y[rows], predicted[rows], classes))
    low, high = np.nanquantile(scores, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)
