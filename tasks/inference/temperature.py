"""Temperature scaling: logits to calibrated probabilities."""

import numpy as np

from tasks.common.errors import DataError
from tasks.scoring import metrics

TEMPERATURES = (1 / 20, 20.0)  # outside, the logits say nothing or the network is broken


def probabilities(logits: np.ndarray, temperature: float, task: str) -> np.ndarray:
    """(N, K) of logits (N, K): softmax, or sigmoid for multi-label data."""
    scaled = logits.astype(np.float64) / temperature
    if task == "multilabel":
        return 1 / (1 + np.exp(-np.clip(scaled, -500, 500)))
    powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def fit_temperature(logits: np.ndarray, targets: np.ndarray) -> float:
    """The temperature of least log-loss (Guo et al. 2017, "On calibration of modern neural networks").

    logits: (N, K); targets: (N,) class indices or (N, K) of 0 and 1. log(temperature) has a standard normal prior,
    worth half a nat in all at a factor e: without it a split that the model gets all right would ask for infinite
    confidence, and 20 images for a wild one. The log-loss after is never above the one before. Raises DataError
    for logits that are not finite.
    """
    from scipy.optimize import minimize_scalar

    if broken := int((~np.isfinite(logits)).any(axis=1).sum()):
        raise DataError(
            f"{broken} of {len(logits)} calibration images have logits that are not finite: the network or its head "
            "diverged; lower train_backbone.learning_rate and train again"
        )
    task = "multiclass" if targets.ndim == 1 else "multilabel"

    def loss(log_temperature: float) -> float:
        found = metrics.log_loss(probabilities(logits, np.exp(log_temperature), task), targets)
        return found + log_temperature**2 / (2 * len(logits))

    grid = np.linspace(*np.log(TEMPERATURES), 21)  # 0, which changes nothing, is its middle
    best = int(np.argmin([loss(point) for point in grid]))
    found = minimize_scalar(loss, bounds=(grid[max(best - 1, 0)], grid[min(best + 1, 20)]), method="bounded").x
    return float(np.exp(min((found, grid[best]), key=loss)))
