"""The optimiser of stage 1: groups of parameters, and the learning rate at each step."""

import math

import torch
from torch.nn import Module

from tasks.common.params import TrainBackboneParams
from tasks.stages.train_backbone.phases import Phase

WARM_UP = 20  # steps at the start of a phase (at most a tenth of it): AdamW's first steps are its wildest
FINE = 0.2  # of the learning rate, once pretrained layers train


def rate(phase: Phase, params: TrainBackboneParams) -> float:
    """Peak learning rate of `phase`."""
    return params.learning_rate * (1.0 if phase.opened == 0 or params.pretrained == "none" else FINE)


def optimizer_of(model: Module, params: TrainBackboneParams) -> torch.optim.Optimizer:
    """The optimiser of the open parameters of `model`."""
    return torch.optim.AdamW(parameter_groups(model, params), fused=True)


def parameter_groups(model: Module, params: TrainBackboneParams) -> list[dict]:
    """AdamW's groups of the open parameters: matrices decay, biases and the scales of norms do not."""
    opened = [value for value in model.parameters() if value.requires_grad]
    groups = [
        {"params": [value for value in opened if value.ndim > 1], "weight_decay": params.weight_decay},
        {"params": [value for value in opened if value.ndim <= 1], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def rate_factor(phase: Phase, step: int, steps: int) -> float:
    """Share of the learning rate at `step` (from 0) of the phase's `steps`: warm-up, then cosine in phase "all"."""
    warm = min(WARM_UP, steps // 10)
    if step < warm:
        return (step + 1) / (warm + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm))) if phase.name == "all" else 1.0
