"""Out-of-fold probabilities from five networks, each fine-tuned on four fifths of the training photos."""

import numpy as np
from sklearn.model_selection import StratifiedKFold
from torch.utils.data import Subset

from benchmarks.scripts_peers import network, photos

FOLDS = 5


def out_of_fold(side: int, seconds: float) -> tuple[np.ndarray, np.ndarray]:
    """(N, K) probabilities and (N,) labels of the training photos; each fold takes its share of `seconds`."""
    changed, plain = photos.read("train", photos.changed(side)), photos.read("train", photos.plain(side))
    labels = np.array(changed.targets)
    found = np.zeros((len(labels), len(changed.classes)), np.float32)
    for rows, held in StratifiedKFold(FOLDS, shuffle=True, random_state=0).split(labels, labels):
        share = len(rows) / len(labels)
        model = network.fit(Subset(changed, rows), None, len(changed.classes), side, share * seconds)
        found[held] = network.predict(model, Subset(plain, held))[0]
    return found, labels
