"""Linear probes: L2-regularised logistic regression on fixed features, several fitted at once.

N samples, D feature dimensions, K classes, M probes. Features are standardised (statistics of all N rows, no
labels involved) and the scaling is folded into the weights. All M probes (the folds of a cross-validation)
share each pass over the features: reading and converting them costs as much as six probes' arithmetic.
numpy and L-BFGS: no seed, no learning rate, no torch import, the same result each time.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from tasks.common.cores import MOST, usable_cores
from tasks.models.lbfgs import minimise
from tasks.models.standardised import Features, Standardised, chunks, moments

L2 = 0.05  # weight of |W|^2 / 2 against the mean loss
ITERATIONS = 20
TOLERANCE = 1e-6  # relative gain of a step that ends a fit: smaller gains change no answer and take half the time
PARAMETERS, COLUMNS = 1 << 19, 2048  # of the probes fitted at once, at most: 50 MB with L-BFGS's memory
PARTS = 8  # of the rows, that cores take in turn; fixed, so that sums do not depend on the number of cores


@dataclass(frozen=True)
class Probe:
    """logits = x @ weight.T + bias; `weight` (K, D), `bias` (K,), float32."""

    weight: np.ndarray
    bias: np.ndarray
    multilabel: bool

    def logits(self, x: Features) -> np.ndarray:
        """(N, K) float32."""
        out = np.empty((len(x), len(self.bias)), np.float32)
        for part, rows in chunks(x):
            out[part] = rows @ self.weight.T + self.bias
        return out

    def probabilities(self, x: Features) -> np.ndarray:
        """(N, K): softmax over classes, or one sigmoid per class for a multi-label probe."""
        return sigmoid(self.logits(x)) if self.multilabel else softmax(self.logits(x))


def select_logits(probes: Sequence[Probe], x: Features, which: np.ndarray) -> np.ndarray:
    """(N, K) logits of row n by `probes[which[n]]`, in one pass over `x`: out-of-fold predictions.

    `which` may be (P, N): the result is then (P, N, K).
    """
    weight = np.concatenate([probe.weight for probe in probes])
    bias = np.concatenate([probe.bias for probe in probes])
    out = np.empty((*which.shape, len(probes[0].bias)), np.float32)
    for part, rows in chunks(x):
        logits = (rows @ weight.T + bias).reshape(len(rows), len(probes), -1)
        out[..., part, :] = logits[np.arange(len(rows)), which[..., part]]
    return out


def softmax(logits: np.ndarray) -> np.ndarray:
    """Softmax over the last axis, without overflow."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """The logistic function, without overflow."""
    return 0.5 * (1 + np.tanh(0.5 * logits))


def fit(
    x: Features,
    y: np.ndarray,
    classes: int,
    *,
    sample_weight: np.ndarray | None = None,
    l2: float = L2,
    iterations: int = ITERATIONS,
    start: Probe | None = None,
) -> Probe:
    """One probe of `x` (N, D) on `y`: (N,) class numbers, or (N, K) of 0 and 1 for multi-label.

    `sample_weight` (N,), >= 0; rows of weight 0 are ignored. `start`: a probe to start from.
    Raises ValueError for arrays whose shapes do not match.
    """
    weights = np.ones(len(x)) if sample_weight is None else np.asarray(sample_weight)
    return fit_many(x, y, classes, weights[None], l2=l2, iterations=iterations, start=start and [start])[0]


def fit_many(
    x: Features | Standardised,
    y: np.ndarray,
    classes: int,
    weights: np.ndarray,
    *,
    l2: float = L2,
    iterations: int = ITERATIONS,
    start: Sequence[Probe] | None = None,
    on_cores: bool = False,
) -> list[Probe]:
    """M independent probes; probe m weights sample n by `weights[m, n]`, shape (M, N).

    `start`: M probes fitted on similar data, to start from. `on_cores`: divide the rows among the cores; not for calls
    that are on several threads already. The result is the same.
    """
    weights = np.atleast_2d(np.asarray(weights, np.float32))
    rows = x if isinstance(x, Standardised) else Standardised(x, *moments(x))
    _check(rows.x, y, classes, weights)
    dimensions = rows.x.shape[1]
    at_once = max(1, min(PARAMETERS // (classes * (dimensions + 1)), COLUMNS // classes))
    probes = []
    with _workers(on_cores and rows.count > 1) as each:
        for first in range(0, len(weights), at_once):
            group = slice(first, first + at_once)
            share = weights[group] / weights[group].sum(axis=1, keepdims=True)
            starts = np.zeros((len(share), classes * (dimensions + 1)), np.float32)
            if start is not None:
                starts = _parameters(start[group], rows.mean, rows.deviation)
            loss = _Loss(rows, np.asarray(y), share, classes, l2, each)
            found = minimise(loss, starts, iterations, TOLERANCE).reshape(len(share), classes, -1)
            probes += [_unscaled(one, rows, np.ndim(y) == 2) for one in found]
    return probes


def _unscaled(one: np.ndarray, rows: Standardised, multilabel: bool) -> Probe:
    weight = one[:, :-1] / rows.deviation
    return Probe(weight, (one[:, -1] - weight @ rows.mean).astype(np.float32), multilabel)


@contextmanager
def _workers(several: bool) -> Iterator[Callable[[Callable, Iterable], Iterable]]:
    """A function like map: on a thread per core if `several`, each with a BLAS of one thread."""
    if not several:
        yield map
        return
    from multiprocessing.pool import ThreadPool

    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, "blas"), ThreadPool(min(usable_cores(), MOST)) as pool:
        yield pool.imap


def _parameters(probes: Sequence[Probe], mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """The probes' weights for standardised features, each class's bias last: (M, K * (D + 1))."""
    weight = np.stack([probe.weight for probe in probes])
    bias = np.stack([probe.bias for probe in probes]) + weight @ mean
    joined = np.concatenate([weight * deviation, bias[..., None]], axis=-1)
    return joined.reshape(len(probes), -1).astype(np.float32)


def _check(x: Features, y: np.ndarray, classes: int, weights: np.ndarray) -> None:
    wanted = (len(x),) if np.ndim(y) == 1 else (len(x), classes)
    if np.shape(y) != wanted or weights.shape[1] != len(x):
        raise ValueError(f"x has {len(x)} rows; y is {np.shape(y)}, expected {wanted}; weights are {weights.shape}")
    if np.ndim(y) == 1 and len(y) and not 0 <= np.min(y) <= np.max(y) < classes:
        raise ValueError(f"y holds {np.min(y)}..{np.max(y)}, expected 0..{classes - 1}")
    if not (weights.min() >= 0 and np.all(weights.sum(axis=1) > 0)):
        raise ValueError("weights must be >= 0 with at least one above 0 for each probe")


class _Loss:
    """Weighted mean loss + L2 of each of M probes, and its gradient, at parameters as of `_parameters`."""

    def __init__(self, rows: Standardised, y: np.ndarray, share: np.ndarray, classes: int, l2: float, each=map):
        self.rows, self.y, self.share, self.classes, self.l2, self.each = rows, y, share, classes, l2, each
        bounds = np.linspace(0, rows.count, min(PARTS, rows.count) + 1).astype(int)
        self.spans = [range(low, high) for low, high in pairwise(bounds)]

    def __call__(self, points: np.ndarray, which: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """(values (A,), gradients (A, P)) of the probes `which` (A,) at `points` (A, P)."""
        points = points.reshape(len(points), self.classes, -1)
        weight, bias = np.ascontiguousarray(points[..., :-1]), points[..., -1:]
        share = self.share[which]
        values = 0.5 * self.l2 * np.array([float(np.vdot(one, one)) for one in weight])
        gradients = np.zeros_like(points)
        gradients[..., :-1] = self.l2 * weight
        for value, gradient in self.each(lambda span: self._of_span(span, weight, bias, share), self.spans):
            values += value
            gradients += gradient
        return values, gradients.reshape(len(points), -1)

    def _of_span(
        self, span: range, weight: np.ndarray, bias: np.ndarray, share: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """What the chunks `span` add to the values (A,) and gradients (A, K, D + 1)."""
        probes, classes, dimensions = weight.shape
        values, gradients = np.zeros(probes), np.zeros((probes, classes, dimensions + 1), np.float32)
        loss_of = _multiclass if self.y.ndim == 1 else _multilabel
        for part, x in self.rows.chunks(span):
            here = share[:, part]
            used = here.any(axis=1)  # rows of a held-out fold cost its probe nothing
            used = slice(None) if used.all() else np.flatnonzero(used)
            here = here[used]
            logits = (weight[used].reshape(-1, dimensions) @ x.T).reshape(len(here), classes, len(x))
            logits += bias[used]
            loss, slope = loss_of(logits, self.y[part])
            values[used] += (loss * here).sum(axis=1, dtype=np.float64)
            slope *= here[:, None]
            gradients[used, :, :-1] += (slope.reshape(-1, len(x)) @ x).reshape(len(here), classes, dimensions)
            gradients[used, :, -1] += slope.sum(axis=2)
        return values, gradients


def _multiclass(logits: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cross-entropy (M, rows) of `logits` (M, K, rows), which it overwrites, and its slope (M, K, rows)."""
    n = np.arange(len(y))
    logits -= logits.max(axis=1, keepdims=True)
    own = logits[:, y, n]
    slope = np.exp(logits, out=logits)
    total = slope.sum(axis=1)
    slope /= total[:, None]
    slope[:, y, n] -= 1
    return np.log(total) - own, slope


def _multilabel(logits: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Binary cross-entropy summed over classes, (M, rows), and its slope (M, K, rows). `y`: (rows, K)."""
    target = np.ascontiguousarray(y.T, dtype=np.float32)
    loss = np.logaddexp(0, logits) - target * logits
    return loss.sum(axis=1), sigmoid(logits) - target
