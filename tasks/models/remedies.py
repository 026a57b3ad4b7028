"""Which training labels to change so that there are fewer mistakes, and what that really brings.

Changes are chosen by one set of images (calibration), and what they bring is measured on another (test) by fitting the
classifier again: a figure of the images that chose the changes would be too good. N training rows, K classes, D
features, M held-out images.

A row is worth changing if the loss on the choosing images falls without it (tasks.models.influence) and if its label
looks wrong to a classifier that was not trained on it (out-of-fold quality of the stage `clean`). Each alone misleads:
hard images with right labels raise the loss, and many wrong labels harm nothing. So rows are ordered by the sum of
their two ranks.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tasks.models import influence
from tasks.models.influence import Taught
from tasks.models.probe import sigmoid, softmax
from tasks.scoring.groups import group_numbers
from tasks.scoring.intervals import two_sided


@dataclass(frozen=True)
class HeldOut:
    """Images that the classifier was not trained on. x: (M, D); y: (M,) or (M, K); groups: (M,) names or None."""

    x: np.ndarray
    y: np.ndarray
    groups: Sequence[str | None]


@dataclass(frozen=True)
class Change:
    """Training row `row` gets the label `label` ((K,) of 0 and 1); None: it is left out."""

    row: int
    label: np.ndarray | None


@dataclass(frozen=True)
class Effect:
    """What changes bring on M held-out images: share of right answers and mean loss, before and after.

    low, high: 95 % interval of the gain in right answers; loss_low, loss_high: of the change of the loss.
    """

    images: int
    before: float
    predicted: float
    after: float
    low: float
    high: float
    loss_before: float
    loss_predicted: float
    loss_after: float
    loss_low: float
    loss_high: float

    @property
    def verdict(self) -> str:
        """ "helps", "may help" or "nothing helps"."""
        if self.low > 0 or (self.loss_high < 0 and self.after >= self.before):
            return "helps"
        return "may help" if self.loss_after < self.loss_before and self.after >= self.before else "nothing helps"


def choose_changes(
    taught: Taught, chosen_by: HeldOut, quality: np.ndarray, predicted: np.ndarray, most: int
) -> list[Change]:
    """At most `most` changes, the most promising first; [] if no row with a doubtful label harms.

    quality: (N,) out-of-fold quality of each label, low = doubtful. predicted: (N, K) of 0 and 1, the out-of-fold
    answer: the new label of a row where it differs from the present one. Rows whose answer agrees are left out.
    """
    gradient = influence.loss_gradient(taught, chosen_by.x, chosen_by.y, np.ones(len(chosen_by.x)))
    harm = influence.left_out(taught, influence.solve(taught, gradient[None]))[0]
    order = np.argsort(_rank(harm) + _rank(quality), kind="stable")
    rows = [int(row) for row in order if harm[row] < 0 and taught.share[row] > 0][:most]
    differs = (predicted[rows] != taught.y[rows]).any(axis=1)
    return [Change(row, predicted[row] if other else None) for row, other in zip(rows, differs, strict=True)]


def effect(taught: Taught, changes: Sequence[Change], held: HeldOut) -> Effect:
    """What `changes` bring on `held`: predicted by influence, and found by fitting again."""
    before = taught.classifier.logits(held.x)
    after = fit_again(taught, changes).classifier.logits(held.x)
    predicted = before + taught.standardised(held.x) @ _step(taught, changes).T
    right, loss = _right(before, held.y, taught), _losses(before, held.y, taught)
    gain = _right(after, held.y, taught) - right
    rise = _losses(after, held.y, taught) - loss
    low, high = _interval(gain, held.groups, of_answers=True)
    loss_low, loss_high = _interval(rise, held.groups)
    return Effect(
        images=len(held.x),
        before=float(right.mean()),
        predicted=float(_right(predicted, held.y, taught).mean()),
        after=float((right + gain).mean()),
        low=low,
        high=high,
        loss_before=float(loss.mean()),
        loss_predicted=float(_losses(predicted, held.y, taught).mean()),
        loss_after=float((loss + rise).mean()),
        loss_low=loss_low,
        loss_high=loss_high,
    )


def fit_again(taught: Taught, changes: Sequence[Change]) -> Taught:
    """The classifier fitted again with `changes`."""
    y, weight = taught.y.copy(), taught.share.astype(float)
    for change in changes:
        if change.label is None:
            weight[change.row] = 0
        else:
            y[change.row] = change.label
    target = y.astype(np.int64) if taught.multilabel else y.argmax(axis=1)
    return influence.teach(taught.x, target, taught.classes, weight, taught.l2, start=taught.classifier)


def _step(taught: Taught, changes: Sequence[Change]) -> np.ndarray:
    rows = np.array([change.row for change in changes], int)
    labels = [taught.y[change.row] if change.label is None else change.label for change in changes]
    kept = np.array([change.label is not None for change in changes], float)
    return influence.changed(taught, rows, np.array(labels), kept)


def _right(logits: np.ndarray, y: np.ndarray, taught: Taught) -> np.ndarray:
    """(M,) 1 for a right answer; of multi-label answers, the share of right labels."""
    if taught.multilabel:
        return ((logits > 0) == (y > 0)).mean(axis=1)
    return (logits.argmax(axis=1) == y).astype(float)


def _losses(logits: np.ndarray, y: np.ndarray, taught: Taught) -> np.ndarray:
    if taught.multilabel:
        p = np.clip(sigmoid(logits.astype(float)), 1e-12, 1 - 1e-12)
        return -(y * np.log(p) + (1 - y) * np.log(1 - p)).sum(axis=1)
    p = softmax(logits.astype(float))
    return -np.log(np.maximum(p[np.arange(len(y)), y], 1e-12))


def _interval(differences: np.ndarray, groups: Sequence[str | None], of_answers: bool = False) -> tuple[float, float]:
    """The 95 % interval of the mean of (M,) differences; images of one group count together.

    of_answers: they are of right answers. Half an image more of each kind (right before or not, now or not) makes the
    interval hold its level for few changed answers (Agresti & Min 2005, as in tasks.scoring.intervals): without it,
    four more right answers of 200 would be a proof. One group proves nothing.
    """
    more = 1 if of_answers else 0
    number, images = group_numbers(groups), len(differences) + 2 * more
    value, count = float(differences.sum()) / images, int(number.max()) + 1
    if count < 2:
        return value - 2, value + 2
    sums = np.bincount(number, differences - value, minlength=count)
    half = two_sided(0.95) * math.sqrt((float(np.square(sums).sum()) + more) * count / (count - 1)) / images
    return value - half, value + half


def _rank(values: np.ndarray) -> np.ndarray:
    return np.argsort(np.argsort(values, kind="stable"), kind="stable")
