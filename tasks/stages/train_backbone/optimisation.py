"""The optimiser of stage 1: groups of parameters, and the learning rate at each step."""

import math

import torch
from torch.nn import Module

from tasks.backbones import timm_models
from tasks.common.params import TrainBackboneParams
from tasks.stages.train_backbone.optimizers import create_optimizer
from tasks.stages.train_backbone.phases import Phase
from tasks.stages.train_backbone.schedules import schedule_factor

FINE = 0.2  # of the learning rate, once pretrained layers train


def rate(phase: Phase, params: TrainBackboneParams) -> float:
    """Peak learning rate of `phase`. Few parameters, from zero or one, need larger steps than all weights."""
    fine = phase.opened != 0 and params.pretrained != "none" and params.tuning == "full"
    return params.learning_rate * (FINE if fine else 1.0)


def optimizer_of(model: Module, params: TrainBackboneParams) -> torch.optim.Optimizer:
    """The optimiser of the open parameters of `model`."""
    return create_optimizer(params.optimizer, parameter_groups(model, params))


def parameter_groups(model: Module, params: TrainBackboneParams) -> list[dict]:
    """Groups of the open parameters: `params`, `weight_decay` and `rate`, their share of the learning rate.

    Matrices decay, biases and the scales of norms do not.
    """
    last = {id(value) for value in timm_models.top(model).parameters()}
    shares = layer_rates(model, params.layer_decay)
    groups: dict[tuple[float, float], list] = {}
    for name, value in model.named_parameters():
        if value.requires_grad:
            share = params.head_rate if id(value) in last else shares[name]
            groups.setdefault((params.weight_decay if value.ndim > 1 else 0.0, share), []).append(value)
    return [{"params": values, "weight_decay": decay, "rate": share} for (decay, share), values in groups.items()]


def layer_rates(model: Module, decay: float) -> dict[str, float]:
    """Name of each parameter -> its share of the learning rate: `decay` to the power of its layers to the end.

    Layer-wise decay, as in BEiT (Bao et al. 2022) and, by larger steps, ULMFiT's discriminative rates (Howard and Ruder
    2018): early layers are general, and keep more of what pretraining taught them.
    """
    if decay == 1:
        return {name: 1.0 for name, _ in model.named_parameters()}
    depths = timm_models.layer_numbers(model)
    deepest = max(depths.values())
    return {name: decay ** (deepest - depth) for name, depth in depths.items()}


def steps_of(batches: int, accumulate: int) -> int:
    """How many steps an epoch of so many batches takes: `accumulate` batches make one, the last may have fewer."""
    return math.ceil(batches / accumulate)


def rate_factor(phase: Phase, step: int, steps: int, schedule: str = "cosine") -> float:
    """Share of the learning rate at `step` (from 0) of the phase's `steps`; only phase "all" follows `schedule`."""
    return schedule_factor(schedule if phase.name == "all" else "constant", step, steps)
