"""Which given labels are wrong: the cut between right and wrong labels.

N samples, K classes. Labels are flagged so that the expected F1 of the flagged ones is highest. For probabilities that
are right, this flags a label if it is wrong with at least half the F1 that is then reached (Lipton et al. 2014): less
than 1/2 where wrong labels are hard to find.
"""

import numpy as np

from tasks.stages.clean.image_noise import fit_either_noise
from tasks.stages.clean.joint import parts

LEAST = 0.35  # a label is flagged only if it is wrong with this probability
SURE = 0.5  # a label that the network gives this probability is its likeliest one, and is not judged by itself
SAMPLE = 5_000  # of such labels, to know how many of them are wrong


def find_wrong(y: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """(N,) bool: labels `y` (N,) that look wrong to out-of-sample `probabilities` (N, K). No features, no truth."""
    noise = fit_either_noise(y, probabilities)
    wrong = np.empty(len(y))
    doubted = np.empty(len(y), bool)
    for part in parts(probabilities):
        here = probabilities[part]
        doubted[part] = here[np.arange(len(here)), y[part]] < SURE
        rows = np.flatnonzero(doubted[part])
        wrong[part.start + rows] = noise.wrong(y[part][rows], here[rows])
    sure = np.flatnonzero(~doubted)
    if len(sure):  # their mean is enough
        some = np.sort(np.random.default_rng(0).permutation(sure)[:SAMPLE])
        wrong[sure] = noise.wrong(y[some], probabilities[some]).mean()
    return wrong >= best_cut(wrong)


def best_cut(wrong: np.ndarray) -> float:
    """The probability from which labels are flagged, for P(label is wrong) (N,); between LEAST and 1/2.

    With the k likeliest errors flagged, the expected F1 is about 2 * (their sum) / (k + the sum of all).
    """
    falling = np.sort(wrong)[::-1]
    f1 = 2 * np.cumsum(falling) / (np.arange(1, len(falling) + 1) + falling.sum())
    return float(np.clip(f1.max(initial=0) / 2, LEAST, 0.5))
