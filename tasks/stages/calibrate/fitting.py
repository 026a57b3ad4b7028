"""Fit scalings on a calibration split and choose one by held-out log-loss. N images, K classes.

Candidates, simplest first: nothing, a temperature, class-wise scaling with a strong and with a weak penalty. Each is
fitted on all folds but one and measured on that one; images of one group share a fold. The first candidate within one
standard error of the best is taken (the one-standard-error rule of Breiman et al. 1984), so that a model which is
calibrated already is left exactly as it is, and few images get no class-wise scaling.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from tasks.inference.scaling import Scaling, scale
from tasks.inference.temperature import fit_temperature, probabilities, refuse_not_finite
from tasks.scoring.groups import group_numbers

Method = Literal["auto", "none", "temperature", "classwise"]
FOLDS = 5
MOST = 1_000_000  # probabilities that the folds are measured on: more cost seconds and change no choice
SHARPEST = 10.0  # sharpness of a class stays within 1 / SHARPEST and SHARPEST
TINY = 1e-12


class Candidate(NamedTuple):
    """One way to scale, and how strongly class-wise values are pulled towards the temperature's (in images)."""

    method: str
    penalty: float = 0.0

    @property
    def title(self) -> str:
        return self.method if self.method != "classwise" else f"classwise, penalty {self.penalty:g}"


@dataclass(frozen=True)
class Choice:
    """The chosen scaling and what it was chosen by."""

    scaling: Scaling
    candidate: Candidate
    losses: dict[str, float]  # held-out log-loss by title; empty: nothing was compared
    why: str


def choose_scaling(
    logits: np.ndarray, targets: np.ndarray, groups: Sequence[str | None], method: Method = "auto"
) -> Choice:
    """The scaling of `logits` (N, K). targets: (N,) class numbers or (N, K) of 0 and 1; groups: (N,) names.

    Raises DataError for logits that are not finite.
    """
    refuse_not_finite(logits)
    candidates = candidates_of(method, logits.shape[1])
    number = group_numbers(groups)
    if len(candidates) == 1 or number.max() == 0:
        chosen = next(one for one in candidates if one.method != "none" or method == "none")
        why = f"calibrate.method is {method}" if method != "auto" else "one group of images: nothing can be held out"
        return Choice(fit_scaling(logits, targets, chosen), chosen, {}, why)
    rows = measured_rows(number, logits.shape[1])
    losses = held_out_losses(logits[rows], targets[rows], number[rows], candidates)
    chosen, why = simplest(candidates, losses, number[rows])
    means = {one.title: float(loss.mean()) for one, loss in zip(candidates, losses, strict=True)}
    return Choice(fit_scaling(logits, targets, chosen), chosen, means, why)


def candidates_of(method: Method, classes: int) -> list[Candidate]:
    """What `calibrate.method` lets choose from, simplest first."""
    classwise = [Candidate("classwise", float(max(classes, 10))), Candidate("classwise", 1.0)]
    plain = [Candidate("none"), Candidate("temperature")]
    if method == "auto":
        return plain + classwise
    return [one for one in plain + classwise if one.method == method]


def measured_rows(group: np.ndarray, classes: int) -> np.ndarray:
    """Rows of whole groups, at most about MOST / K of them: always the same ones. group: (N,) numbers."""
    most = MOST // classes
    if len(group) <= most:
        return np.arange(len(group))
    order = np.random.default_rng(0).permutation(group.max() + 1)
    taken = np.cumsum(np.bincount(group)[order]) <= most
    taken[0] = True
    return np.flatnonzero(np.isin(group, order[taken]))


def held_out_losses(
    logits: np.ndarray, targets: np.ndarray, group: np.ndarray, candidates: Sequence[Candidate]
) -> np.ndarray:
    """(C, N) loss of each image under each of C candidates, fitted without the image's fold. group: (N,) numbers."""
    names, number = np.unique(group, return_inverse=True)
    folds = min(FOLDS, len(names))
    fold = np.random.default_rng(0).permutation(len(names))[number] % folds
    losses = np.empty((len(candidates), len(logits)))
    for out in range(folds):
        held, rest = fold == out, fold != out
        for place, one in enumerate(candidates):
            losses[place, held] = image_losses(
                logits[held], targets[held], fit_scaling(logits[rest], targets[rest], one)
            )
    return losses


def image_losses(logits: np.ndarray, targets: np.ndarray, scaling: Scaling) -> np.ndarray:
    """(N,) log-loss of each image; multi-label: mean over its labels."""
    task = "multiclass" if targets.ndim == 1 else "multilabel"
    p = np.clip(scale(logits, scaling, task), TINY, 1 - TINY)
    if targets.ndim == 1:
        return -np.log(p[np.arange(len(p)), targets])
    return -np.where(targets > 0, np.log(p), np.log1p(-p)).mean(axis=1)


def simplest(candidates: Sequence[Candidate], losses: np.ndarray, group: np.ndarray) -> tuple[Candidate, str]:
    """(the first candidate within one standard error of the best, why in words). losses: (C, N); group: (N,)."""
    best = int(losses.mean(axis=1).argmin())
    worse = losses - losses[best]
    close = [place for place, loss in enumerate(worse) if loss.mean() <= standard_error(loss, group)]
    one, loss = candidates[close[0]], losses[close[0]]
    said = f"held-out log-loss {loss.mean():.4f}"
    if one.method != "none" and candidates[0].method == "none":
        said += f" against {losses[0].mean():.4f} uncalibrated"
    if one != candidates[best]:
        said += f"; {candidates[best].title} ({losses[best].mean():.4f}) is not clearly better"
    return one, said


def standard_error(values: np.ndarray, group: np.ndarray) -> float:
    """Standard error of the mean of `values` (N,), whose groups are the observations. Infinite for one group."""
    sums = np.bincount(np.unique(group, return_inverse=True)[1], values - values.mean())
    if len(sums) < 2:
        return float("inf")
    return float(np.sqrt(np.square(sums).sum() * len(sums) / (len(sums) - 1)) / len(values))


def fit_scaling(logits: np.ndarray, targets: np.ndarray, one: Candidate) -> Scaling:
    """The scaling of a candidate with the lowest penalised log-loss."""
    if one.method == "none":
        return Scaling()
    temperature = fit_temperature(logits, targets)
    smoothing = 1 / (len(logits) + 1)
    if one.method == "temperature":
        return Scaling("temperature", temperature, smoothing)
    fit = _fit_classes if targets.ndim == 1 else _fit_labels
    bias, change = fit(logits.astype(np.float64) / temperature, targets, one.penalty / len(logits))
    return Scaling("classwise", temperature, smoothing, 1 + change, bias)


def _fit_classes(z: np.ndarray, targets: np.ndarray, penalty: float) -> tuple[np.ndarray, np.ndarray]:
    """(bias (K,), change of sharpness (K,)) of scaled logits z (N, K), see tasks.inference.scaling."""
    rows, (images, classes) = np.arange(len(z)), z.shape
    z = z - z.max(axis=1, keepdims=True)
    likely = probabilities(z, 1.0, "multiclass")

    def loss(values: np.ndarray) -> tuple[float, np.ndarray]:
        bias, change = values[:classes], values[classes:]
        u = z * (1 + likely @ change)[:, None] + bias
        u -= u.max(axis=1, keepdims=True)
        p = np.exp(u)
        total = p.sum(axis=1)
        value = (np.log(total) - u[rows, targets]).mean() + penalty * values @ values
        p /= total[:, None]
        p[rows, targets] -= 1  # the gradient with respect to u
        of_sharpness = likely.T @ np.einsum("nk,nk->n", p, z)
        return value, np.concatenate([p.sum(axis=0), of_sharpness]) / images + 2 * penalty * values

    return _minimised(loss, classes)


def _fit_labels(z: np.ndarray, targets: np.ndarray, penalty: float) -> tuple[np.ndarray, np.ndarray]:
    """(bias (K,), change of sharpness (K,)) of multi-label scaled logits z (N, K): Platt scaling of each label."""
    images, labels = z.shape

    def loss(values: np.ndarray) -> tuple[float, np.ndarray]:
        bias, change = values[:labels], values[labels:]
        u = z * (1 + change) + bias
        value = (np.logaddexp(0, u) - targets * u).sum() / images + penalty * values @ values
        slope = probabilities(u, 1.0, "multilabel") - targets
        return value, np.concatenate([slope.sum(axis=0), (slope * z).sum(axis=0)]) / images + 2 * penalty * values

    return _minimised(loss, labels)


def _minimised(loss, classes: int) -> tuple[np.ndarray, np.ndarray]:
    from scipy.optimize import minimize

    free, bounded = (None, None), (1 / SHARPEST - 1, SHARPEST - 1)
    found = minimize(
        loss, np.zeros(2 * classes), jac=True, method="L-BFGS-B", bounds=[free] * classes + [bounded] * classes
    ).x
    return found[:classes], found[classes:]
