"""Find out whether a deployed model's classes are given in its own order. N images, K classes."""

from collections.abc import Sequence

import numpy as np

from tasks.common.errors import EvergreenError

SURE = 0.05  # the other order must be better with at most this probability of chance
MOST = 2000  # images that are looked at, per split


def likely_order(targets: np.ndarray, answers: np.ndarray, classes: int) -> np.ndarray:
    """(K,): the class that each output of the model means, by `targets` and `answers` (N,). A tie keeps the order."""
    from scipy.optimize import linear_sum_assignment

    together = np.zeros((classes, classes))
    np.add.at(together, (answers, targets), 1)
    together += 0.5 * np.eye(classes)
    return linear_sum_assignment(together, maximize=True)[1]


def chance_of_better(targets: np.ndarray, given: np.ndarray, other: np.ndarray) -> float:
    """Probability that chance alone makes `other` (N,) right so much oftener than `given` (sign test, one-sided)."""
    from scipy.stats import binomtest

    worse, better = int((given == targets).sum()), int((other == targets).sum())
    only_other = int(((other == targets) & (given != targets)).sum())
    only_given = int(((given == targets) & (other != targets)).sum())
    if better <= worse:
        return 1.0
    return float(binomtest(only_other, only_other + only_given, 0.5, alternative="greater").pvalue)


def check_order(classes: Sequence[str], fitted: tuple, held_out: tuple) -> None:
    """Raise EvergreenError if another order of `classes` explains the model's answers better.

    fitted, held_out: (targets (N,), answers (N,)) as indices into `classes`; the order that the first shows is tried on
    the second.
    """
    order = likely_order(*fitted, len(classes))
    targets, answers = held_out
    if chance_of_better(targets, answers, order[answers]) > SURE:
        return
    right, better = int((answers == targets).sum()), int((order[answers] == targets).sum())
    listed = ",".join(classes[place] for place in order)
    raise EvergreenError(
        f"the classes seem to be in another order than the model's: as given, {right} of {len(targets)} test images "
        f"are right; in the order {listed}, {better} are. --classes must list the classes in the model's own order: "
        "check it where the model was trained (its class_to_idx, labels.txt or id2label), and adopt it again."
    )
