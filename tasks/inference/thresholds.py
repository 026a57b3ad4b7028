"""Turn calibrated probabilities into an answer, and decide whether a person should look at it.

N images, K classes; probabilities (N, K), thresholds (K,) in class order.

Multi-class. The answer is always the most probable class, whatever the thresholds are, so that the gate judges what is
served. Class k is *raised* when its probability reaches t_k = 1 / (1 + c_k), c_k being the cost of missing k against
a false alarm's 1 (Elkan 2001, "The foundations of cost-sensitive learning"). An answer is sure when it is raised and
nothing else is. Without costs every t_k is 1/2: a person sees answers under 50 %. With a cost of 9 for one class,
t_k is 0.1: a person sees an image with 10 % for that class even if another class is likelier. Nothing is estimated,
so a class with three calibration images is treated as well as one with three thousand.

Multi-label. The answer is every class with p_k >= t_k. t_k is 1 / (1 + c_k) for classes with a cost; for the others
it maximises F1 on calibration data, shrunk towards the threshold t that maximises F1 over all classes together. The
reason: a class with few positives (n_k) fits its own noise. t_k = (n_k fitted_k + PRIOR t) / (n_k + PRIOR). An answer
is sure when every label given is likelier than not and every label left out is not.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from tasks.common.errors import ParamsError

PRIOR = 20  # positives at which a class's own threshold weighs as much as the common one
LOWEST = 1e-3  # thresholds stay within LOWEST and 1 - LOWEST


def multiclass(classes: Sequence[str], costs: Mapping[str, float]) -> np.ndarray:
    """(K,) thresholds from costs alone. Raises ParamsError for a cost of an unknown class."""
    _check_classes(classes, costs)
    return np.array([1 / (1 + costs.get(name, 1.0)) for name in classes])


def multilabel(
    probabilities: np.ndarray, targets: np.ndarray, classes: Sequence[str], costs: Mapping[str, float]
) -> np.ndarray:
    """(K,) thresholds from calibration data. targets: (N, K) of 0 and 1. Raises ParamsError as `multiclass`."""
    _check_classes(classes, costs)
    together = _best_f1(probabilities.ravel(), targets.ravel())
    found = np.empty(len(classes))
    for k, name in enumerate(classes):
        if name in costs:
            found[k] = 1 / (1 + costs[name])
            continue
        positives = float(targets[:, k].sum())
        own = _best_f1(probabilities[:, k], targets[:, k])
        found[k] = (positives * own + PRIOR * together) / (positives + PRIOR)
    return np.clip(found, LOWEST, 1 - LOWEST)


def answers(probabilities: np.ndarray, thresholds: np.ndarray, task: str) -> np.ndarray:
    """Predicted class indices (N,), or for multi-label predicted labels (N, K) bool."""
    if task == "multiclass":
        return probabilities.argmax(axis=1)
    return probabilities >= thresholds


def confidence(probabilities: np.ndarray, thresholds: np.ndarray, task: str) -> np.ndarray:
    """(N,) probability that the answer is right; for multi-label: that its least certain label is."""
    if task == "multiclass":
        return probabilities.max(axis=1)
    return np.where(probabilities >= thresholds, probabilities, 1 - probabilities).min(axis=1)


def sure(probabilities: np.ndarray, thresholds: np.ndarray, task: str) -> np.ndarray:
    """(N,) bool: no person needs to look (see the top of this module). NaN is never sure."""
    raised = probabilities >= thresholds
    if task == "multilabel":
        return confidence(probabilities, thresholds, task) >= 0.5
    own = np.take_along_axis(raised, probabilities.argmax(axis=1)[:, None], axis=1)[:, 0]
    return own & (raised.sum(axis=1) == 1)


def _best_f1(scores: np.ndarray, truth: np.ndarray) -> float:
    """The threshold of best F1, halfway to the next lower score; 1/2 without positives."""
    if not truth.any():
        return 0.5
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    hits = np.cumsum(truth[order])
    f1 = 2 * hits / (np.arange(1, len(ranked) + 1) + truth.sum())
    below = np.append(ranked[1:], 0.0)
    f1[ranked == below] = -1  # no threshold separates equal scores
    best = int(np.argmax(f1))
    return float((ranked[best] + below[best]) / 2)


def _check_classes(classes: Sequence[str], costs: Mapping[str, float]) -> None:
    if unknown := sorted(set(costs) - set(classes)):
        raise ParamsError(
            f"calibrate.cost_false_negative names {unknown}, which are not among the {len(classes)} classes "
            f"{list(classes)[:20]}: correct params.yaml"
        )
