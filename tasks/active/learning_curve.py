"""What more labels would bring: accuracy by their number, extrapolated with an interval.

The error of a classifier falls with its training images n about as c + a n^-b (Cortes et al. 1993, "Learning curves:
asymptotic values and rate of convergence"; Hestness et al. 2017, "Deep learning scaling is predictable, empirically").
`measure` fits linear probes on nested parts of the labelled images, `forecast` weighs all such curves by how well they
fit, so that its interval holds what the points do not settle (Viering & Loog 2022, "The shape of learning curves").

N labelled images, D feature dimensions, K classes, F folds, S parts, G curves.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from tasks.models import probe
from tasks.models.folds import assign_folds
from tasks.scoring.metrics import counts, metric_of

FOLDS = 3
PARTS = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)  # of the training images of a fold
LEAST = 2  # labelled images per class in the smallest part, on average; smaller parts say nothing
ROWS = 12_000  # images that are measured; a random sample of more
RATES = np.linspace(0.05, 1.5, 30)  # b
FLOORS = 30  # values of c, from 0 to the smallest error seen
COVERAGE, Z = 0.9, 1.645  # of the interval, and that of a normal distribution
FEW = 10  # labelled images; with fewer of a class its curve says nothing
SPREAD = 0.004  # at least this standard error of a point: no power law is exact


@dataclass(frozen=True)
class Curve:
    """Errors (0..1) by training images, for each fold and part."""

    labels: np.ndarray  # (S,) mean number of training images
    errors: np.ndarray  # (F, S) 1 - balanced accuracy
    class_errors: np.ndarray  # (F, S, K) 1 - recall; NaN where the fold has no image of the class
    support: np.ndarray  # (K,) labelled images per class
    total: int  # labelled images


class Gain(NamedTuple):
    """Expected rise of a score (0..1), with its interval."""

    expected: float
    low: float
    high: float


def measure(x: np.ndarray, y: np.ndarray, groups: np.ndarray, classes: int, seed: int = 0) -> Curve:
    """Errors of class-balanced probes on nested parts of the labelled images, tested on held-out groups.

    x: (N, D); y: (N,) class numbers, or (N, K) of 0 and 1; groups: (N,) names. Raises ValueError if there are too few
    images for two parts.
    """
    rng, total = np.random.default_rng(seed), len(x)
    members = y[:, None] == np.arange(classes) if y.ndim == 1 else y > 0
    support = members.sum(axis=0)
    if total > ROWS:
        rows = np.sort(rng.choice(total, ROWS, replace=False))
        x, y, groups, members = x[rows], y[rows], groups[rows], members[rows]
    fold = assign_folds(members, groups, FOLDS, seed)
    sizes = [share for share in PARTS if share * len(x) * (1 - 1 / FOLDS) >= LEAST * classes]
    if len(sizes) < 2:
        raise ValueError(f"{total} labelled images of {classes} classes: too few for a learning curve")
    _, number = np.unique(groups, return_inverse=True)
    place = rng.permutation(number.max() + 1)[number]  # groups in a random order: parts are nested and hold whole ones
    weights = np.zeros((FOLDS, len(sizes), len(x)), np.float32)
    for f in range(FOLDS):
        train = np.flatnonzero(fold != f)
        order = train[np.argsort(place[train], kind="stable")]
        for s, share in enumerate(sizes):
            part = order[: round(share * len(order))]
            weights[f, s, part] = balanced(members[part])
    probes = probe.fit_many(x, y, classes, weights.reshape(-1, len(x)))
    errors = np.full((FOLDS, len(sizes)), np.nan)
    class_errors = np.full((FOLDS, len(sizes), classes), np.nan)
    task = "multiclass" if y.ndim == 1 else "multilabel"
    for f in range(FOLDS):
        held = np.flatnonzero(fold == f)
        for s in range(len(sizes)):
            logits = probes[f * len(sizes) + s].logits(x[held])
            found = counts(y[held], logits.argmax(axis=1) if y.ndim == 1 else logits > 0, classes)
            errors[f, s] = 1 - metric_of("balanced_accuracy", found, task)
            with np.errstate(invalid="ignore"):
                class_errors[f, s] = found.fn / (found.tp + found.fn)
    labels = (weights > 0).sum(axis=2).mean(axis=0)
    return Curve(labels, errors, class_errors, support, total)


def balanced(members: np.ndarray) -> np.ndarray:
    """(N,) weights that let every class count the same; members: (N, K) bool. A row without class counts 1."""
    rarity = len(members) / np.maximum(members.sum(axis=0), 1)
    return np.maximum((members * rarity).max(axis=1), 1)


def forecast(labels: np.ndarray, errors: np.ndarray, now: float, more: float, spread: float = SPREAD) -> Gain:
    """How much the error falls from `now` to `now + more` labels, with a 90 % interval.

    labels: (S,); errors: (F, S). All power laws c + a n^-b of a grid are weighted by
    their likelihood. The difference of folds in level is not noise of the curve: only their mean curve is fitted, with
    the spread of the folds around parallel curves as its error.
    """
    mean = errors.mean(axis=0)
    apart = errors - errors.mean(axis=1, keepdims=True) - mean + mean.mean()
    free = max((len(errors) - 1) * (len(labels) - 1), 1)
    noise = max(float(np.sqrt(np.square(apart).sum() / free / len(errors))), spread)
    rate, floor = (part.ravel() for part in np.meshgrid(RATES, np.linspace(0, max(mean.min(), 0), FLOORS)))
    law = np.power(labels / labels[-1], -rate[:, None])  # (G, S)
    scale = np.maximum(((mean - floor[:, None]) * law).sum(axis=1) / np.square(law).sum(axis=1), 0)
    misfit = np.square(floor[:, None] + scale[:, None] * law - mean).sum(axis=1) / noise**2
    weight = np.exp(-(misfit - misfit.min()) / 2)
    weight /= weight.sum()
    fall = scale * (np.power(now / labels[-1], -rate) - np.power((now + more) / labels[-1], -rate))
    error = Z * noise * fall / np.maximum(scale, noise)  # given the shape, the scale is as uncertain as a point
    order = np.argsort(fall)
    at = np.searchsorted(np.cumsum(weight[order]), [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
    low, high = order[np.minimum(at, len(order) - 1)]
    low, high = float(fall[low] - error[low]), float(fall[high] + error[high])
    return Gain(float(weight @ fall), max(low, 0.0), min(high, 1.0))


def expected_gain(curve: Curve, more: int) -> Gain:
    """What `more` labels like the present ones would add to the balanced accuracy."""
    return forecast(curve.labels, curve.errors, curve.total, more)


def class_gains(curve: Curve, more: int) -> list[Gain | None]:
    """K gains: what `more` labels, in the present mix of classes, would add to each class's recall.

    None: the class has fewer than FEW labelled images, which say nothing.
    """
    found: list[Gain | None] = []
    for number, support in enumerate(curve.support):
        errors = curve.class_errors[..., number]
        if support < FEW or np.isnan(errors).any():
            found.append(None)
        else:  # the recall of few images moves in steps
            spread = max(SPREAD, 0.25 / float(support) ** 0.5)
            found.append(forecast(curve.labels, errors, curve.total, more, spread))
    return found


def enough(gain: Gain, least: float) -> bool:
    """Do more labels bring nothing? The upper bound of their gain is below `least` (0..1)."""
    return gain.high < least
