"""Which given labels are wrong: the cut between right and wrong labels.

N samples, K classes. Labels are flagged so that the expected F1 of the flagged ones is highest. For probabilities that
are right, this flags a label if it is wrong with at least half the F1 that is then reached (Lipton et al. 2014): less
than 1/2 where wrong labels are hard to find.
"""

import numpy as np

from tasks.stages.clean.image_noise import fit_either_noise

LEAST = 0.35  # a label is flagged only if it is wrong with this probability


def find_wrong(y: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """(N,) bool: labels `y` (N,) that look wrong to out-of-sample `probabilities` (N, K). No features, no truth."""
    wrong = fit_either_noise(y, probabilities).wrong(y, probabilities)
    return wrong >= best_cut(wrong)


def best_cut(wrong: np.ndarray) -> float:
    """The probability from which labels are flagged, for P(label is wrong) (N,); between LEAST and 1/2.

    With the k likeliest errors flagged, the expected F1 is about 2 * (their sum) / (k + the sum of all).
    """
    falling = np.sort(wrong)[::-1]
    f1 = 2 * np.cumsum(falling) / (np.arange(1, len(falling) + 1) + falling.sum())
    return float(np.clip(f1.max(initial=0) / 2, LEAST, 0.5))
