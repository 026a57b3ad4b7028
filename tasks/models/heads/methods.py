"""The stage-2 methods by name: what each fits, and in which order the choice prefers them.

N samples, K classes, D feature dimensions.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tasks.dataset.shard_table import ShardTable
from tasks.models.head import Head
from tasks.models.heads import gaussian, moved, retrained
from tasks.scoring.targets import class_counts

STRENGTHS = (0.5, 0.75, 1.0, 1.5)  # of logit_adjust
TAUS = (0.25, 0.5, 0.75, 1.0)  # of tau_norm
FACTOR_L2S = (0.1, 0.01)  # of lws
SHRINKAGES = (0.3, 0.6, 0.9)  # of gda
MOST_DIMENSIONS = 4096  # of gda: its covariance has the square of it


@dataclass(frozen=True)
class Given:
    """What a method may use: training features x (N, D), targets y, the network's own classifier, and its settings."""

    x: ShardTable | np.ndarray
    y: np.ndarray
    own: Head
    epochs: int = 200
    seed: int = 0
    thorough: bool = True  # False: a method with costly settings tries the one that was mostly best

    @property
    def classes(self) -> int:
        return len(self.own.bias)

    @property
    def counts(self) -> np.ndarray:
        """(K,) training samples."""
        return class_counts(self.y, self.classes)


def _max_norm(given: Given) -> list[Head]:
    return retrained.max_norm(given.x, given.y, given.classes, iterations=min(given.epochs, retrained.PASSES))


def _crt(given: Given) -> list[Head]:
    l2s = retrained.L2S if given.thorough else retrained.L2S[:1]
    return retrained.retrained(given.x, given.y, given.classes, given.epochs, l2s)


def _lws(given: Given) -> list[Head]:
    weight, logits = retrained.balancing_weights(given.y, given.classes), given.own.logits(given.x)
    return [moved.rescaled(given.own, logits, given.y, weight, l2) for l2 in FACTOR_L2S]


def _gda(given: Given) -> list[Head]:
    if given.x.shape[1] > MOST_DIMENSIONS:
        return []
    found = gaussian.moments(given.x, given.y, given.classes)
    return [gaussian.gaussian(found, shrinkage) for shrinkage in SHRINKAGES]


def _soup(given: Given) -> list[Head]:
    return retrained.averaged(given.x, given.y, given.classes, given.seed, given.epochs)


def _smote(given: Given) -> list[Head]:
    return retrained.with_new_samples(given.x, given.y, given.classes, given.seed, given.epochs)


METHODS: dict[str, Callable[[Given], list[Head]]] = {  # the order in which the choice prefers them
    "max_norm": _max_norm,
    "crt": _crt,
    "lws": _lws,
    "logit_adjust": lambda given: [moved.logit_adjusted(given.own, given.counts, one) for one in STRENGTHS],
    "gda": _gda,
    "soup": _soup,
    "smote": _smote,
    "tau_norm": lambda given: [moved.tau_normalised(given.own, tau) for tau in TAUS],
    "stage1": lambda given: [given.own],
}
MULTILABEL = ("crt", "stage1")  # classes that do not compete for one answer
AUTO = ("max_norm", "crt", "lws", "logit_adjust", "tau_norm", "stage1")


def methods_of(task: str) -> tuple[str, ...]:
    """The methods that fit `task`, in order of preference."""
    return tuple(METHODS) if task == "multiclass" else MULTILABEL
