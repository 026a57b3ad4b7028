"""What an epoch is worth on the calibration split, which decides the epoch that is kept."""

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import Module

from tasks.common.errors import EvergreenError
from tasks.scoring.metrics import average_precision, balanced_accuracy, per_class
from tasks.stages.train_backbone.feeding import Examples, Inputs, Setting, autocast, prefetch, to_input
from tasks.stages.train_backbone.losses import sample_losses
from tasks.stages.train_backbone.phases import (
    Phase,
)

TAUS = (0.0, 0.25, 0.5, 0.75, 1.0)  # see `score`


def judge(network: Module, calibration: Examples, how: Setting, phase: Phase, epoch: int, counts: np.ndarray) -> dict:
    """calibration_loss, calibration_score and calibration_error (`score`) of `network`, the same in every process."""
    targets = calibration.targets
    logits = predict(network, calibration.inputs(phase), how)
    loss = float(sample_losses(logits, torch.from_numpy(targets)).mean())
    if not math.isfinite(loss):
        raise EvergreenError(
            f"the calibration loss is {loss:g} after epoch {epoch}: the network no longer gives finite numbers. "
            f"Lower train_backbone.learning_rate (now {how.params.learning_rate:g})"
        )
    value, error = score(targets, logits.numpy(), counts)
    return {"calibration_loss": loss, "calibration_score": value, "calibration_error": error}


def predict(network: Module, inputs: Inputs, how: Setting) -> Tensor:
    """(N, K) float32 logits on the CPU; the processes share the work, and each gets all logits."""
    network.eval()
    parts = np.array_split(np.arange(len(inputs)), math.ceil(len(inputs) / how.params.batch_size))
    mine = parts[how.ranks.rank :: how.ranks.world]
    logits = torch.zeros(len(inputs), how.classes, device=how.ranks.device)
    with torch.inference_mode():
        for rows, batch in zip(mine, prefetch(mine, inputs), strict=True):
            with autocast(how):
                logits[torch.from_numpy(rows)] = network(to_input(batch, how)).float()
    return how.ranks.sum(logits).cpu()


def score(targets: np.ndarray, logits: np.ndarray, counts: np.ndarray) -> tuple[float, float]:
    """(score that chooses the epoch, its standard error); `counts` (K,) are the training samples of each class.

    Multi-class: balanced accuracy of logits minus tau times the log share of each class, at the best of TAUS
    (Menon et al. 2021). Stage 2 balances the classifier, so an epoch's bias to common classes must not decide.
    Plain balanced accuracy chose unadapted features on long-tailed data, three points worse after stage 2.
    Multi-label: mean average precision.
    """
    if targets.ndim == 2:
        return _mean_and_error(average_precision(targets, logits), targets.sum(axis=0))
    share = np.log(np.maximum(counts, 1) / np.maximum(counts, 1).sum())
    answers = [(logits - tau * share).argmax(axis=1) for tau in TAUS]
    best = max(answers, key=lambda answer: balanced_accuracy(targets, answer, len(counts)))
    found = per_class(targets, best, len(counts))
    return _mean_and_error(found["recall"], found["support"])


def _mean_and_error(values: np.ndarray, support: np.ndarray) -> tuple[float, float]:
    """(mean of `values` (K,) over classes with `support`, its standard error), each value as a share of its samples.

    The variance within a class is pooled over classes: a class with one image has none of its own.
    """
    values, support = values[support > 0], support[support > 0]
    variance = (support * values * (1 - values)).sum() / max(support.sum() - len(support), 1)
    return float(values.mean()), float(np.sqrt(variance * (1 / support).sum()) / len(support))
