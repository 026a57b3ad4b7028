"""How many synthetic images train: at most a share of each class, `data.synthetic_share`.

Synthetic images help a class of which there are few, and mislead where they outweigh it: then the network learns what
gives them away. They are only in the training split (tasks.ingest.reading), so nothing is ever measured on them.
N is the number of samples.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from tasks.stages.validate.table import SampleTable, labels_of

SYNTHETIC = "synthetic"  # the column `origin` of their rows


def over_share(table: SampleTable, share: float) -> np.ndarray:
    """(N,) bool: synthetic training images above `share` of the training images of one of their labels."""
    synthetic = is_synthetic(table) & table.training
    real = table.counts(table.training & ~synthetic)
    over = np.zeros(len(table), bool)
    if share < 1:
        rows = np.flatnonzero(synthetic)
        labels = [labels_of(table.labels[row]) for row in rows]
        over[rows] = beyond([table.ids[row] for row in rows], labels, real, share)
    return over


def beyond(ids: Sequence[str], labels: Sequence[list[str]], real: Counter[str], share: float) -> np.ndarray:
    """Which synthetic images are too many; those with the smallest ids stay. `real`: label -> other images.

    An id is a hash, so this is a random choice that new images hardly change.
    """
    over, taken = np.zeros(len(ids), bool), Counter()
    for place in np.argsort(np.array(ids, object), kind="stable"):
        names = labels[place]
        if all(taken[name] + 1 <= share * (taken[name] + 1 + real[name]) + 1e-9 for name in names):
            taken.update(names)
        else:
            over[place] = True
    return over


def is_synthetic(table: SampleTable) -> np.ndarray:
    """(N,) bool."""
    return np.array(table.samples.column("origin").to_pylist(), object) == SYNTHETIC


def figures(table: SampleTable) -> dict | None:
    """What the report says: synthetic training images used and left out, by class; None if there are none."""
    synthetic = is_synthetic(table)
    if not synthetic.any():
        return None
    used, left = synthetic & table.training, synthetic & table.over_share
    real, mine, out = table.counts(table.training & ~synthetic), table.counts(used), table.counts(left)
    classes = {name: {"real": real[name], "used": mine[name], "left_out": out[name]} for name in sorted(mine | out)}
    return {"used": int(used.sum()), "left_out": int(left.sum()), "classes": classes}
