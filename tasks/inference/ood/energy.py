"""`energy`: minus the log-sum-exp of the logits. Needs no training features.

Liu et al. 2020, "Energy-based out-of-distribution detection"; for multi-label models the sum over labels (Wang et al.
2021, "Can multi-label classification networks know what they don't know?"). N images, K classes.
"""

import numpy as np


def score(logits: np.ndarray, task: str) -> np.ndarray:
    """(N,) minus the energy of `logits` (N, K); NaN stays NaN."""
    logits = np.asarray(logits, np.float64)
    with np.errstate(invalid="ignore"):  # infinite logits give NaN
        if task == "multilabel":
            return -np.logaddexp(0, logits).sum(axis=1)
        top = logits.max(axis=1)
        return -(top + np.log(np.exp(logits - top[:, None]).sum(axis=1)))
