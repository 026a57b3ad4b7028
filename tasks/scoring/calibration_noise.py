"""How large a calibration error a perfectly calibrated model shows by luck, on these images.

N samples, K classes. The debiased error of a few dozen images is often above 0.1 although nothing is wrong with the
probabilities. The gate therefore adds this noise to its bound.
"""

from collections.abc import Sequence

import numpy as np

from tasks.scoring.groups import group_numbers
from tasks.scoring.metrics import debiased_ece

DRAWS = 100
QUANTILE = 0.95


def calibration_noise(probabilities: np.ndarray, task: str, groups: Sequence[str | None], bins: int) -> float:
    """The error that a calibrated model with these `probabilities` (N, K) stays below 95 % of the time.

    groups: (N,) names; images of one group come out alike, so that few groups give a large error by luck.
    """
    rng = np.random.default_rng(0)
    group = group_numbers(groups)
    answers, sure = probabilities.argmax(axis=1), probabilities.max(axis=1)
    found = []
    for _ in range(DRAWS):
        if task == "multilabel":
            luck = rng.random((group.max() + 1, probabilities.shape[1]))[group]
            targets = (luck < probabilities).astype(np.float32)
        else:
            right = rng.random(group.max() + 1)[group] < sure
            targets = np.where(right, answers, (answers + 1) % probabilities.shape[1])
        found.append(debiased_ece(probabilities, targets, bins))
    return float(np.quantile(found, QUANTILE))
