"""Which training rows taught a linear classifier its answers, in closed form.

N training rows, K classes, D features (standardised, with a constant 1 as the last), Q questions. The classifier is an
L2-regularised logistic regression (tasks.models.probe) at its optimum. Then the effect of leaving out or relabelling a
training row on any answer is, to first order, a product of gradients with the inverse Hessian between them (Koh & Liang
2017, "Understanding black-box predictions via influence functions"). The sum over rows of what each adds to a logit is
the logit itself (representer points, Yeh et al. 2018).

The Hessian has K D rows: 51,300 for 100 classes and 512 features. It is never built. Conjugate gradients solve with it,
preconditioned by its Kronecker factors with corrected eigenvalues (EKFAC, George et al. 2018): a few passes over the
rows are enough.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from tasks.models import probe
from tasks.models.probe import Probe
from tasks.models.standardised import Features, Standardised, moments

STEPS = 30  # of conjugate gradients, at most
CLOSE, ROUGH = 1e-3, 3e-2  # relative residual that ends them: for sums, and to order rows
PASSES = 60  # iterations of the fit: the formulas hold at the optimum only
TOGETHER = 1 << 26  # cells of a block: questions are answered in blocks of this many


@dataclass(frozen=True)
class Taught:
    """A classifier and the rows that taught it.

    y: (N, K) of 0 and 1. share: (N,) weights that sum to 1. l2: of the fit.
    """

    x: Features
    y: np.ndarray
    share: np.ndarray
    l2: float
    classifier: Probe

    @property
    def classes(self) -> int:
        """K."""
        return self.y.shape[1]

    @property
    def multilabel(self) -> bool:
        """Whether classes do not exclude each other."""
        return self.classifier.multilabel

    @cached_property
    def rows(self) -> Standardised:
        """The training rows, standardised."""
        return Standardised(self.x, *self.scale)

    @cached_property
    def scale(self) -> tuple[np.ndarray, np.ndarray]:
        """(mean, deviation) of the features."""
        return moments(self.x)

    def standardised(self, x: np.ndarray) -> np.ndarray:
        """(M, D) of features (M, D - 1), as the classifier sees them."""
        mean, deviation = self.scale
        return _with_one((np.asarray(x, np.float32) - mean) / deviation)

    def chunks(self) -> Iterator[tuple[slice, np.ndarray]]:
        """(slice, rows (., D)), in order."""
        for part, z in self.rows.chunks():
            yield part, _with_one(z)

    @cached_property
    def probabilities(self) -> np.ndarray:
        """(N, K) float32 of the training rows."""
        return self.classifier.probabilities(self.x)

    @cached_property
    def slopes(self) -> np.ndarray:
        """(N, K): the gradient of each row's weighted loss with respect to its logits."""
        return self.share[:, None] * (self.probabilities - self.y)

    @cached_property
    def penalty(self) -> np.ndarray:
        """(D,): the L2 penalty of each feature. The constant has nearly none."""
        found = np.full(self.x.shape[1] + 1, self.l2, np.float32)
        found[-1] = 1e-6
        return found

    @cached_property
    def factors(self) -> "Factors":
        """The Hessian's Kronecker factors."""
        return _factors(self)


@dataclass(frozen=True)
class Factors:
    """Eigenvectors of features (D, D) and classes (K, K), and the Hessian's diagonal (K, D) in their basis."""

    features: np.ndarray
    classes: np.ndarray
    values: np.ndarray

    def solve(self, right: np.ndarray) -> np.ndarray:
        """About H^-1 `right`; (Q, K, D) each."""
        inside = self.classes.T @ (right @ self.features)
        return self.classes @ (inside / self.values) @ self.features.T


def teach(
    x: Features, y: np.ndarray, classes: int, weight: np.ndarray | None, l2: float, start: Probe | None = None
) -> Taught:
    """Fit the classifier of `x` (N, D - 1) on `y`: (N,) class numbers, or (N, K) of 0 and 1 for multi-label.

    weight: (N,), rows of weight 0 teach nothing. start: a classifier of nearly the same rows.
    """
    weight = np.ones(len(x)) if weight is None else np.asarray(weight, float)
    fitted = probe.fit(x, y, classes, sample_weight=weight, l2=l2, iterations=PASSES, start=start)
    if start is None:  # L-BFGS ends where one step gains little: go on from there
        fitted = probe.fit(x, y, classes, sample_weight=weight, l2=l2, iterations=PASSES, start=fitted)
    return Taught(x, targets(y, classes), (weight / weight.sum()).astype(np.float32), l2, fitted)


def targets(y: np.ndarray, classes: int) -> np.ndarray:
    """(N, K) float32 of 0 and 1, of class numbers (N,) or of such a table."""
    return np.eye(classes, dtype=np.float32)[y] if np.ndim(y) == 1 else np.asarray(y, np.float32)


def solve(taught: Taught, right: np.ndarray, close: float = CLOSE) -> np.ndarray:
    """H^-1 `right` by preconditioned conjugate gradients; (Q, K, D) each, float32."""
    found = np.zeros_like(right, np.float32)
    rest = right.astype(np.float32)
    step = taught.factors.solve(rest)
    direction, closeness = step, _dot(rest, step)
    goal = close**2 * np.maximum(closeness, 1e-30)
    for _ in range(STEPS):
        curved = _curve(taught, direction)
        length = closeness / np.maximum(_dot(direction, curved), 1e-30)
        found += length[:, None, None] * direction
        rest = rest - length[:, None, None] * curved
        step = taught.factors.solve(rest)
        before, closeness = closeness, _dot(rest, step)
        if (closeness <= goal).all():
            break
        direction = step + (closeness / np.maximum(before, 1e-30))[:, None, None] * direction
    return found


def left_out(taught: Taught, solved: np.ndarray) -> np.ndarray:
    """(Q, N): by how much each question's value grows if a row is left out. solved: `solve` of its gradient."""
    return np.einsum("qnk,nk->qn", _answers(taught, solved), taught.slopes)


def given_instead(taught: Taught, solved: np.ndarray) -> np.ndarray:
    """(N, K): by how much a value grows if a row gets another label. solved: (K, D), `solve` of its gradient.

    Multi-class: class k in place of the row's label. Multi-label: class k turned over.
    """
    reach = _answers(taught, solved[None])[0]
    if taught.multilabel:
        return taught.share[:, None] * (1 - 2 * taught.y) * reach
    return taught.share[:, None] * (reach - (reach * taught.y).sum(axis=1, keepdims=True))


def added(taught: Taught, z: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """(N,): what each row adds to a value of one image, `direction` (K,) of its logits (Yeh et al. 2018).

    z: (D,), standardised. At the optimum their sum is the value without the class's constant.
    """
    return -(taught.slopes @ direction) * similarity(taught, z) / taught.l2


def similarity(taught: Taught, z: np.ndarray) -> np.ndarray:
    """(N,): the product of each row's features with those of one image, `z` (D,), without the constant."""
    found = np.empty(len(taught.y), np.float32)
    for part, rows in taught.chunks():
        found[part] = rows[:, :-1] @ z[:-1]
    return found


def cosine(taught: Taught, z: np.ndarray) -> np.ndarray:
    """(Q, N) cosine similarity of standardised features; z: (Q, D)."""
    found = np.empty((len(z), len(taught.y)), np.float32)
    wanted = z[:, :-1] / np.maximum(np.linalg.norm(z[:, :-1], axis=1, keepdims=True), 1e-12)
    for part, rows in taught.chunks():
        rows = rows[:, :-1]
        found[:, part] = wanted @ (rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)).T
    return found


def loss_gradient(taught: Taught, x: np.ndarray, y: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """(K, D): the gradient of the weighted mean loss of other images. x: (M, D - 1); y: (M,) or (M, K)."""
    slopes = taught.classifier.probabilities(x) - targets(y, taught.classes)
    share = (weight / weight.sum())[:, None]
    return (share * slopes).astype(np.float32).T @ taught.standardised(x)


def changed(taught: Taught, rows: np.ndarray, y: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """(K, D): the step of the classifier's weights if `rows` (R,) get other labels and weights.

    y: (R, K). weight: (R,), relative to what the row has: 0 leaves it out.
    """
    z = np.concatenate([_with_one(_standard(taught, row)) for row in rows])
    p, share = taught.probabilities[rows], taught.share[rows][:, None]
    difference = share * (weight[:, None] * (p - y) - (p - taught.y[rows]))
    return -solve(taught, (difference.T @ z)[None].astype(np.float32))[0]


def _standard(taught: Taught, row: int) -> np.ndarray:
    mean, deviation = taught.scale
    return (np.asarray(taught.x[int(row) : int(row) + 1], np.float32) - mean) / deviation


def _answers(taught: Taught, solved: np.ndarray) -> np.ndarray:
    """(Q, N, K): each row's features through the solved gradients (Q, K, D)."""
    q, k, d = solved.shape
    found = np.empty((q, len(taught.y), k), np.float32)
    for part, z in taught.chunks():
        found[:, part] = (z @ solved.reshape(q * k, d).T).reshape(len(z), q, k).transpose(1, 0, 2)
    return found


def _curve(taught: Taught, directions: np.ndarray) -> np.ndarray:
    """H `directions`; (Q, K, D) each."""
    q, k, d = directions.shape
    flat, found = directions.reshape(q * k, d), np.zeros((q * k, d), np.float32)
    for part, z in taught.chunks():
        t = (z @ flat.T).reshape(len(z), q, k)
        p, share = taught.probabilities[part][:, None, :], taught.share[part][:, None, None]
        t = share * p * (t * (1 - p) if taught.multilabel else t - (p * t).sum(axis=-1, keepdims=True))
        found += t.reshape(len(z), q * k).T @ z
    return found.reshape(q, k, d) + taught.penalty * directions


def _factors(taught: Taught) -> Factors:
    d = taught.x.shape[1] + 1
    features, classes = np.zeros((d, d)), np.zeros((taught.classes, taught.classes))
    for part, z in taught.chunks():
        share, p = taught.share[part][:, None], taught.probabilities[part]
        features += (share * z).T @ z
        classes += np.diag((share * (p * (1 - p) if taught.multilabel else p)).sum(axis=0))
        if not taught.multilabel:
            classes -= (share * p).T @ p
    _, of_features = np.linalg.eigh(features)
    _, of_classes = np.linalg.eigh(classes)
    u, v = of_features.astype(np.float32), of_classes.astype(np.float32)
    values = np.zeros((taught.classes, d))
    for part, z in taught.chunks():
        p = taught.probabilities[part]
        spread = (p * (1 - p)) @ v**2 if taught.multilabel else p @ v**2 - np.square(p @ v)
        values += (taught.share[part][:, None] * spread).T @ np.square(z @ u)
    penalty = taught.penalty @ np.square(u)
    return Factors(u, v, (np.maximum(values, 0) + penalty).astype(np.float32))


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.einsum("qkd,qkd->q", a, b, dtype=np.float64).astype(np.float32)


def _with_one(z: np.ndarray) -> np.ndarray:
    return np.concatenate([z, np.ones((len(z), 1), np.float32)], axis=1)
