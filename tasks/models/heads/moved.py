"""Stage 1's own classifier, moved towards rare classes without a pass over the features.

N samples, K classes, D feature dimensions.
"""

import numpy as np

from tasks.models.head import Head
from tasks.models.probe import softmax


def logit_adjusted(own: Head, counts: np.ndarray, strength: float = 1.0) -> Head:
    """`own` with `strength` times the log of each class's share taken from its logit; 1: as if all were as common.

    Menon et al. 2021, "Long-tail learning via logit adjustment". counts (K,): training samples.
    """
    prior = np.maximum(counts, 1) / np.maximum(counts, 1).sum()
    return Head(own.weight, (own.bias - strength * np.log(prior)).astype(np.float32), strength)


def tau_normalised(own: Head, tau: float) -> Head:
    """`own` with each class's norm to the power 1 - tau, and no bias: common classes grow larger norms.

    Kang et al. 2020, "Decoupling representation and classifier for long-tailed recognition". Scaled by the mean norm,
    so that the logits keep their size and calibration starts from sensible values.
    """
    norms = np.linalg.norm(own.weight, axis=1, keepdims=True)
    weight = own.weight * (norms.mean() / np.maximum(norms, 1e-12)) ** tau
    return Head(weight.astype(np.float32), np.zeros_like(own.bias), tau)


def rescaled(own: Head, logits: np.ndarray, y: np.ndarray, weight: np.ndarray, l2: float) -> Head:
    """LWS: `own` with one learned factor for each class's logit, at the least weighted log-loss.

    Kang et al. 2020, "learnable weight scaling". logits (N, K) are those of `own` on the training samples, y (N,) their
    classes, weight (N,) of each; l2 pulls the log of the factors to 0.
    """
    from scipy.optimize import minimize

    rows, share = np.arange(len(y)), weight / weight.sum()
    z = np.asarray(logits, np.float64)

    def loss(log_factor: np.ndarray) -> tuple[float, np.ndarray]:
        factor = np.exp(log_factor)
        p = softmax(z * factor)
        value = -(share * np.log(np.maximum(p[rows, y], 1e-12))).sum() + 0.5 * l2 * log_factor @ log_factor
        p[rows, y] -= 1
        return float(value), ((share[:, None] * p * z).sum(axis=0) * factor) + l2 * log_factor

    found = minimize(loss, np.zeros(len(own.bias)), jac=True, method="L-BFGS-B", bounds=[(-3, 3)] * len(own.bias)).x
    factor = np.exp(found).astype(np.float32)
    return Head(own.weight * factor[:, None], own.bias * factor, l2)


def between(a: Head, b: Head, share: float) -> Head:
    """`share` of `b` and the rest of `a`: the logits lie between theirs."""
    weight, bias = ((1 - share) * x + share * y for x, y in ((a.weight, b.weight), (a.bias, b.bias)))
    return Head(weight.astype(np.float32), bias.astype(np.float32), share)
