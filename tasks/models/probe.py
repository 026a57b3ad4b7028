"""Linear probes: L2-regularised logistic regression on fixed features, several fitted at once.

N samples, D feature dimensions, K classes, M probes. Features are standardised (statistics of all N rows, no
labels involved) and the scaling is folded into the weights. All M probes (the folds of a cross-validation)
share each pass over the features. The passes are nearly all of the cost, so six probes cost little more than one.
numpy and L-BFGS: no seed, no learning rate, no torch import, the same result each time.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tasks.dataset.shard_table import ShardTable

Features = np.ndarray | ShardTable  # (N, D)

ROWS = 4096  # a chunk of features in float32: 20 MB at D = 1280
IN_MEMORY = 32 << 20  # bytes; up to this size standardised features stay in memory, others are made in each pass
FLOOR = 0.3  # of the median deviation
L2 = 0.05  # weight of |W|^2 / 2 against the mean loss
ITERATIONS = 20
TOLERANCE = 1e-6  # relative gain of a step that ends a fit: smaller gains change no answer and take half the time


@dataclass(frozen=True)
class Probe:
    """logits = x @ weight.T + bias; `weight` (K, D), `bias` (K,), float32."""

    weight: np.ndarray
    bias: np.ndarray
    multilabel: bool

    def logits(self, x: Features) -> np.ndarray:
        """(N, K) float32."""
        out = np.empty((len(x), len(self.bias)), np.float32)
        for part, rows in _chunks(x):
            out[part] = rows @ self.weight.T + self.bias
        return out

    def probabilities(self, x: Features) -> np.ndarray:
        """(N, K): softmax over classes, or one sigmoid per class for a multi-label probe."""
        return sigmoid(self.logits(x)) if self.multilabel else softmax(self.logits(x))


def select_logits(probes: Sequence[Probe], x: Features, which: np.ndarray) -> np.ndarray:
    """(N, K) logits of row n by `probes[which[n]]`, in one pass over `x`: out-of-fold predictions."""
    weight = np.concatenate([probe.weight for probe in probes])
    bias = np.concatenate([probe.bias for probe in probes])
    out = np.empty((len(x), len(probes[0].bias)), np.float32)
    for part, rows in _chunks(x):
        logits = (rows @ weight.T + bias).reshape(len(rows), len(probes), -1)
        out[part] = logits[np.arange(len(rows)), which[part]]
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
    x: Features,
    y: np.ndarray,
    classes: int,
    weights: np.ndarray,
    *,
    l2: float = L2,
    iterations: int = ITERATIONS,
    start: Sequence[Probe] | None = None,
) -> list[Probe]:
    """M independent probes; probe m weights sample n by `weights[m, n]`, shape (M, N).

    `start`: M probes fitted on similar data, to start from.
    """
    from scipy.optimize import minimize

    weights = np.atleast_2d(np.asarray(weights, np.float32))
    _check(x, y, classes, weights)
    mean, deviation = moments(x)
    rows = Standardised(x, mean, deviation)
    share = weights / weights.sum(axis=1, keepdims=True)
    shape = (len(weights), classes, x.shape[1] + 1)
    with _scipy_on_one_thread():
        result = minimize(
            _loss,
            np.zeros(shape).ravel() if start is None else _parameters(start, mean, deviation).ravel(),
            args=(rows, np.asarray(y), share, shape, l2),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": iterations, "maxcor": 10, "ftol": TOLERANCE},
        )
    parameters = result.x.reshape(shape)
    probes = []
    for one in parameters:
        weight = one[:, :-1] / deviation
        bias = one[:, -1] - weight @ mean
        probes.append(Probe(weight.astype(np.float32), bias.astype(np.float32), np.ndim(y) == 2))
    return probes


@contextmanager
def _scipy_on_one_thread() -> Iterator[None]:
    """Limit scipy's OpenBLAS to one thread.

    Wheels of numpy and scipy each bring an OpenBLAS, whose waiting threads spin. An optimiser of scipy with a loss in
    numpy uses both in turn, and they take the cores from each other (three times slower on two cores).
    """
    from threadpoolctl import ThreadpoolController

    loaded = ThreadpoolController()
    of_scipy = [library["filepath"] for library in loaded.info() if "scipy.libs" in Path(library["filepath"]).parts]
    with loaded.select(filepath=of_scipy).limit(limits=1):
        yield


def _parameters(probes: Sequence[Probe], mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """The probes' weights for standardised features, bias last: (M, K, D + 1)."""
    weight = np.stack([probe.weight for probe in probes])
    bias = np.stack([probe.bias for probe in probes]) + weight @ mean
    return np.concatenate([weight * deviation, bias[..., None]], axis=-1).astype(np.float64)


def _check(x: Features, y: np.ndarray, classes: int, weights: np.ndarray) -> None:
    wanted = (len(x),) if np.ndim(y) == 1 else (len(x), classes)
    if np.shape(y) != wanted or weights.shape[1] != len(x):
        raise ValueError(f"x has {len(x)} rows; y is {np.shape(y)}, expected {wanted}; weights are {weights.shape}")
    if np.ndim(y) == 1 and len(y) and not 0 <= np.min(y) <= np.max(y) < classes:
        raise ValueError(f"y holds {np.min(y)}..{np.max(y)}, expected 0..{classes - 1}")
    if not (weights.min() >= 0 and np.all(weights.sum(axis=1) > 0)):
        raise ValueError("weights must be >= 0 with at least one above 0 for each probe")


def _loss(flat: np.ndarray, rows: "Standardised", y: np.ndarray, share: np.ndarray, shape, l2: float):
    """Sum over probes of (weighted mean loss + L2), and its gradient (float64, as L-BFGS wants)."""
    probes, classes, _ = shape
    parameters = flat.reshape(shape)
    weight = parameters[..., :-1].reshape(probes * classes, -1).astype(np.float32)
    bias = parameters[..., -1].reshape(-1).astype(np.float32)
    gradient = np.zeros_like(parameters)
    total = 0.5 * l2 * float(np.square(parameters[..., :-1]).sum())
    gradient[..., :-1] = l2 * parameters[..., :-1]
    for part, x in rows.chunks():
        logits = (x @ weight.T + bias).reshape(len(x), probes, classes)
        loss, slope = _multiclass(logits, y[part]) if y.ndim == 1 else _multilabel(logits, y[part])
        here = share[:, part].T  # (rows, M)
        total += float((loss * here).sum(dtype=np.float64))
        slope *= here[..., None]
        slope = slope.reshape(len(x), -1)
        gradient[..., :-1] += (slope.T @ x).reshape(probes, classes, -1)
        gradient[..., -1] += slope.sum(axis=0).reshape(probes, classes)
    return total, gradient.ravel()


def _multiclass(logits: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cross-entropy (rows, M) and its slope (rows, M, K)."""
    n = np.arange(len(y))
    logits -= logits.max(axis=-1, keepdims=True)
    slope = np.exp(logits)
    total = slope.sum(axis=-1, keepdims=True)
    loss = np.log(total[..., 0]) - logits[n, :, y]
    slope /= total
    slope[n, :, y] -= 1
    return loss, slope


def _multilabel(logits: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Binary cross-entropy summed over classes (rows, M) and its slope (rows, M, K)."""
    target = y[:, None, :]
    loss = np.logaddexp(0, logits) - target * logits
    return loss.sum(axis=-1), sigmoid(logits) - target


class Standardised:
    """(x - mean) / deviation in float32: kept in memory if it fits, else computed again in each pass."""

    def __init__(self, x: Features, mean: np.ndarray, deviation: np.ndarray):
        self.x, self.mean, self.scale = x, mean, 1 / deviation
        fits = x.shape[0] * x.shape[1] * 4 <= IN_MEMORY
        self.held = [(part, rows.copy()) for part, rows in self._stream()] if fits else None

    def _stream(self) -> Iterator[tuple[slice, np.ndarray]]:
        for part, rows in _chunks(self.x):
            rows -= self.mean
            rows *= self.scale
            yield part, rows

    def chunks(self) -> Sequence | Iterator[tuple[slice, np.ndarray]]:
        """(slice, its rows) in order; the rows may be overwritten by those of the next slice."""
        return self._stream() if self.held is None else self.held


def some(x: Features, rows: np.ndarray) -> Features:
    """The rows `rows` (int array or boolean mask) of `x`; of a table on disk nothing is read."""
    return x.take(rows) if isinstance(x, ShardTable) else x[rows]


def _chunks(x: Features) -> Iterator[tuple[slice, np.ndarray]]:
    """(slice, float32 copy) in order, ROWS at a time. One array is used for all slices: memory holds one of them."""
    buffer = np.empty((min(ROWS, len(x)), x.shape[1]), np.float32)
    for start in range(0, len(x), ROWS):
        part = slice(start, min(start + ROWS, len(x)))
        rows = buffer[: part.stop - start]
        if isinstance(x, ShardTable):
            x.read_into(part, rows)
        else:
            rows[:] = x[part]
        yield part, rows


def moments(x: Features) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation, (D,) float32 each.

    The deviation has a floor: a feature that is almost constant here may vary elsewhere, and its weight would be huge.
    """
    total = np.zeros(x.shape[1])
    square = np.zeros(x.shape[1])
    for _, rows in _chunks(x):
        total += rows.sum(axis=0, dtype=np.float64)
        square += np.einsum("nd,nd->d", rows, rows, dtype=np.float64)
    mean = total / len(x)
    deviation = np.sqrt(np.maximum(square / len(x) - mean**2, 0))
    deviation = np.maximum(deviation, FLOOR * np.median(deviation))
    deviation[deviation < 1e-6] = 1  # constant features
    return mean.astype(np.float32), deviation.astype(np.float32)
