"""Turn calibrated probabilities into an answer, and decide whether a person should look at it.

N images, K classes; probabilities (N, K), thresholds (K,) in class order.

Multi-class. The answer is the class with the largest w_k p_k, the first one on a tie. The weight w_k is the cost c_k of
missing class k, 1 where none is given (tasks.stages.calibrate may divide it by what calibration added to the class).
An answer j costs the sum of c_k p_k over the other classes, so this answer has the least expected cost; without costs
it is the most probable class. The probabilities are those of a balanced head: costs count as if all classes were
equally frequent, as balanced accuracy does. Bundles of schema 1 and 2 have no weights: their answer is the most
probable class.

Class k is *raised* when its probability reaches t_k = 1 / (1 + c_k) (Elkan 2001, "The foundations of cost-sensitive
learning"). An answer is sure when it is raised and nothing else is. Without costs every t_k is 1/2: a person sees
answers under 50 %. With a cost of 9 for one class, t_k is 0.1: a person sees an image with 10 % for that class, even
where it is not the answer. Nothing is estimated, so a class with three calibration images is treated as well as one
with three thousand.

Multi-label. The answer is every class with p_k >= t_k. t_k is 1 / (1 + c_k) for classes with a cost; for the others
it maximises F1 on calibration data, shrunk towards the threshold t that maximises F1 over all classes together. The
reason: a class with few positives (n_k) fits its own noise. t_k = (n_k fitted_k + PRIOR t) / (n_k + PRIOR). An answer
is sure when every label given is likelier than not and every label left out is not.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tasks.common.errors import ParamsError

PRIOR = 20  # positives at which a class's own threshold weighs as much as the common one
LOWEST = 1e-3  # thresholds stay within LOWEST and 1 - LOWEST


@dataclass(frozen=True)
class Rule:
    """How one model turns probabilities into answers. `read_rule` reads it from what is stored."""

    task: str
    thresholds: np.ndarray  # (K,)
    weights: np.ndarray  # (K,) of multi-class answers; 1: the most probable class


def read_rule(about: Mapping, classes: Sequence[str] | None = None) -> Rule:
    """The rule in bundle.json or calibration.json `about`, for its own classes or for `classes`.

    A class without a threshold is never raised; one without a weight, as in bundles of schema 1 and 2, has weight 1.
    """
    return make_rule(about["task"], classes or about["classes"], about.get("thresholds"), about.get("weights"))


def make_rule(
    task: str,
    classes: Sequence[str],
    thresholds: Mapping[str, float] | None,
    weights: Mapping[str, float] | None,
) -> Rule:
    """The rule of thresholds and weights by class; see `read_rule` for missing ones."""
    return Rule(
        task,
        np.array([(thresholds or {}).get(name, math.inf) for name in classes], np.float64),
        np.array([(weights or {}).get(name, 1.0) for name in classes], np.float64),
    )


def cost_weights(classes: Sequence[str], costs: Mapping[str, float]) -> np.ndarray:
    """(K,) the cost of missing each class: the weights of multi-class answers. Raises ParamsError as `multiclass`."""
    _check_classes(classes, costs)
    return np.array([costs.get(name, 1.0) for name in classes])


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


def answers(probabilities: np.ndarray, rule: Rule) -> np.ndarray:
    """Predicted class indices (N,), or for multi-label predicted labels (N, K) bool."""
    if rule.task == "multiclass":
        return (probabilities * rule.weights).argmax(axis=1)
    return probabilities >= rule.thresholds


def confidence(probabilities: np.ndarray, rule: Rule) -> np.ndarray:
    """(N,) probability that the answer is right; for multi-label: that its least certain label is."""
    if rule.task == "multiclass":
        return _of_answer(probabilities, answers(probabilities, rule))
    return np.where(probabilities >= rule.thresholds, probabilities, 1 - probabilities).min(axis=1)


def sure(probabilities: np.ndarray, rule: Rule) -> np.ndarray:
    """(N,) bool: no person needs to look (see the top of this module). NaN is never sure."""
    raised = probabilities >= rule.thresholds
    if rule.task == "multilabel":
        return confidence(probabilities, rule) >= 0.5
    return _of_answer(raised, answers(probabilities, rule)) & (raised.sum(axis=1) == 1)


def _of_answer(values: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """(N,) of `values` (N, K) at each answer (N,)."""
    return np.take_along_axis(values, chosen[:, None], axis=1)[:, 0]


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
