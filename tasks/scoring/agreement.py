"""How far probabilities and answers agree with labels: top-k, Cohen's kappa, ROC area, cost.

N samples, K classes; shapes as in tasks.scoring.metrics. scikit-learn has the first three too: importing it takes
seconds, and it is 2 to 100 times slower (a test compares the values).
"""

import numpy as np

from tasks.scoring.metrics import confusion, one_hot


def top_k(targets: np.ndarray, probabilities: np.ndarray, k: int) -> float:
    """Share of the images whose class is among the `k` likeliest; among ties it comes last. targets: (N,)."""
    own = np.take_along_axis(probabilities, targets[:, None], axis=1)
    ties = (probabilities == own).sum(axis=1) - 1
    return float(((probabilities > own).sum(axis=1) + ties < k).mean())


def kappa(targets: np.ndarray, predicted: np.ndarray, classes: int) -> float:
    """Cohen's kappa: agreement beyond that of chance with the same mixes, 1 is perfect; NaN if chance is perfect too.

    (N,) targets and answers (Cohen 1960, "A coefficient of agreement for nominal scales").
    """
    matrix = confusion(targets, predicted, classes) / len(targets)
    chance = float((matrix.sum(axis=0) * matrix.sum(axis=1)).sum())
    return (float(np.trace(matrix)) - chance) / (1 - chance) if chance < 1 else float("nan")


def roc_area(targets: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """(K,) area under the ROC curve of each class against the rest; NaN where all or no samples have the class.

    It is the probability that an image of the class gets a higher probability for it than one of the rest; a tie
    counts half (Hanley & McNeil 1982).
    """
    truth = one_hot(targets, probabilities.shape[1])
    positive = truth.sum(axis=0)
    out = np.full(probabilities.shape[1], np.nan)
    for k in np.flatnonzero((positive > 0) & (positive < len(truth))):
        _, value, count = np.unique(probabilities[:, k], return_inverse=True, return_counts=True)
        middle = np.cumsum(count) - (count - 1) / 2  # the mean rank of equal values, from 1
        above = middle[value][truth[:, k]].sum() - positive[k] * (positive[k] + 1) / 2
        out[k] = above / (positive[k] * (len(truth) - positive[k]))
    return out


def mean_cost(targets: np.ndarray, predicted: np.ndarray, costs: np.ndarray) -> float:
    """Mean of `image_costs`."""
    return float(image_costs(targets, predicted, costs).mean())


def image_costs(targets: np.ndarray, predicted: np.ndarray, costs: np.ndarray) -> np.ndarray:
    """(N,) cost of each image's mistakes. costs: (K,) of missing each class.

    Multi-class: a wrong answer costs what missing the image's class costs. Multi-label: each missed label costs that,
    and each false label costs 1.
    """
    truth, answer = one_hot(targets, len(costs)), one_hot(predicted, len(costs))
    missed = (truth & ~answer) @ costs
    return missed if targets.ndim == 1 else missed + (~truth & answer).sum(axis=1)
