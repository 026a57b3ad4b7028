"""A moving average of the network's weights, which is judged and kept in place of the network itself.

Polyak and Juditsky 1992, "Acceleration of stochastic approximation by averaging". Single steps are noisy, their average
less so, above all while the learning rate is high.
"""

import torch
from torch import Tensor
from torch.nn import Module
from torch.optim.swa_utils import AveragedModel

from tasks.stages.train_backbone.checkpoint import State, cpu_copy

RAMP = 10  # with n steps done, the decay is at most (1 + n) / (RAMP + n): the first weights are soon forgotten


def start_average(model: Module, decay: float, saved: State | None = None) -> AveragedModel | None:
    """The average of `model` from now on, or from `average_state` of an interrupted training; None for decay 0.

    `.module` is the averaged network. Call `update_parameters(model)` after each step; buffers are the model's.
    """
    if not decay:
        return None
    average = AveragedModel(model, multi_avg_fn=_lerp(decay))
    if saved:
        average.load_state_dict(saved, strict=False)
    return average


def average_state(average: AveragedModel | None) -> State:
    """What `start_average` needs to go on: the averaged parameters and the number of steps."""
    if average is None:
        return {}
    buffers = {f"module.{name}" for name, _ in average.module.named_buffers()}
    return cpu_copy({name: value for name, value in average.state_dict().items() if name not in buffers})


def decay_at(decay: float, step: int) -> float:
    """Share of the average that stays at `step` (from 1): a short training must not remember where it began."""
    return min(decay, (1 + step) / (RAMP + step))


def _lerp(decay: float):
    @torch.no_grad()
    def update(averages: list[Tensor], values: list[Tensor], step: Tensor) -> None:
        torch._foreach_lerp_(averages, values, 1 - decay_at(decay, int(step)))

    return update
