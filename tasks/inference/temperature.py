"""Temperature scaling: turns logits into calibrated probabilities. N images, K classes."""

import numpy as np

from tasks.common.errors import DataError
from tasks.scoring import metrics

TEMPERATURES = (1 / 20, 20.0)  # outside this range the logits carry no information or the network is broken


def probabilities(logits: np.ndarray, temperature: float, task: str) -> np.ndarray:
    """(N, K) of logits (N, K): softmax, or sigmoid for multi-label data."""
    scaled = logits.astype(np.float64) / temperature
    if task == "multilabel":
        return 1 / (1 + np.exp(-np.clip(scaled, -500, 500)))
    powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def refuse_not_finite(logits: np.ndarray) -> None:
    """Raise DataError if an image's `logits` (N, K) are not finite."""
    if broken := int((~np.isfinite(logits)).any(axis=1).sum()):
        raise DataError(
            f"{broken} of {len(logits)} calibration images have logits that are not finite: the network or its head "
            "diverged; lower train_backbone.learning_rate and train again"
        )


def fit_temperature(logits: np.ndarray, targets: np.ndarray) -> float:
    """The temperature with the lowest log-loss (Guo et al. 2017, "On calibration of modern neural networks").

    logits: (N, K); targets: (N,) class indices or (N, K) of 0 and 1. log(temperature) has a standard normal prior,
    worth half a nat in total at a factor e. Without it, a split without mistakes would ask for infinite confidence, and
    20 images could ask for an extreme one. The log-loss never rises. Raises DataError for logits that are not finite.
    """
    from scipy.optimize import minimize_scalar

    refuse_not_finite(logits)
    task = "multiclass" if targets.ndim == 1 else "multilabel"

    def loss(log_temperature: float) -> float:
        found = metrics.log_loss(probabilities(logits, np.exp(log_temperature), task), targets)
        return found + log_temperature**2 / (2 * len(logits))

    grid = np.linspace(*np.log(TEMPERATURES), 21)  # its middle is 0, which changes nothing
    best = int(np.argmin([loss(point) for point in grid]))
    found = minimize_scalar(loss, bounds=(grid[max(best - 1, 0)], grid[min(best + 1, 20)]), method="bounded").x
    return float(np.exp(min((found, grid[best]), key=loss)))
