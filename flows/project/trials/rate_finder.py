"""Finds a learning rate by trying all of them in one short training.

Smith 2017, "Cyclical Learning Rates for Training Neural Networks". The rate rises exponentially from step to step. The
loss first stays, then falls, and at last explodes. A schedule that warms up and falls to zero can peak near the highest
rate that still trains.
"""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, count

import numpy as np
import torch
from torch.nn import Module

from tasks.scoring.targets import class_counts
from tasks.stages.train_backbone import light
from tasks.stages.train_backbone.augment.changes import Changes
from tasks.stages.train_backbone.augment.mixing import mixed_losses
from tasks.stages.train_backbone.depthwise import SmallMaps
from tasks.stages.train_backbone.feeding import Examples, Setting, autocast, prefetch, to_input
from tasks.stages.train_backbone.losses import epoch_loss
from tasks.stages.train_backbone.optimisation import optimizer_of, rate
from tasks.stages.train_backbone.phases import Phase, moving_statistics, open_parts, set_mode
from tasks.stages.train_backbone.precision import use_bfloat16
from tasks.stages.train_backbone.sampling import epoch_batches
from tasks.stages.train_backbone.trainer import start_from_probe

EVERYTHING = Phase("all", 1, None)
LOWEST, HIGHEST = 1e-4, 1e3  # the rates that are tried, in learning rates of params.yaml
STEPS = 120
SMOOTH = 0.9  # of a moving average of the losses: single batches are noisy
EXPLODED = 2.0  # times the least loss so far: higher rates are not tried
START = 10  # steps until the smoothed loss says where the training starts: that of one batch may be luck
LOWER = 0.98  # times the loss at the start: a rate must come to less, else none helps


@dataclass(frozen=True)
class RateCurve:
    """`rates` (M,) as values of train_backbone.learning_rate, and the smoothed loss (M,) at each."""

    rates: np.ndarray
    losses: np.ndarray

    @property
    def suggestion(self) -> float | None:
        """The highest rate that leaves the loss below its start, of two significant digits; None if none lowers it."""
        begun = min(START, len(self.losses) - 1)
        start, later = self.losses[begun], self.losses[begun:]
        if not later.min() < LOWER * start:
            return None
        return float(f"{self.rates[begun + np.flatnonzero(later < start)[-1]]:.1e}")


def find_rate(
    model: Module, train: Examples, how: Setting, steps: int = STEPS, seen: Callable[[int], None] = lambda step: None
) -> RateCurve:
    """Train `model` (which this spoils) for `steps` steps at rising rates. `seen` is called with each step."""
    params = how.params
    how = replace(how, half=use_bfloat16(params.precision, model, how.ranks.device))
    light.attach(model, params)
    if train.features is not None:
        start_from_probe(model, train, how.classes)
    model.to(how.ranks.device)
    open_parts(model, EVERYTHING)
    light.close_others(model, params)
    optimizer = optimizer_of(model, params)
    set_mode(model, moving_statistics(params))
    epochs = (epoch_batches(train.targets, how.classes, params, epoch, 0.0) for epoch in count(1))
    order = [rows for rows, _ in zip(chain.from_iterable(epochs), range(steps), strict=False)]
    loss_of = epoch_loss(
        params.loss, class_counts(train.targets, how.classes), params.label_smoothing, 0.0, how.ranks.device
    )
    tried = params.learning_rate * np.geomspace(LOWEST, HIGHEST, steps)
    scale = rate(EVERYTHING, params) / params.learning_rate
    changes = Changes.of_epoch(params, EVERYTHING, 0, how.side or train.pixels.shape[1], params.seed)
    torch.manual_seed(params.seed)
    losses: list[float] = []
    with SmallMaps() if how.ranks.device.type == "cpu" else nullcontext():
        for step, batch in enumerate(prefetch(order, changes.pixels(train.pixels))):
            x, mixture = changes.batch(to_input(batch, how), np.zeros(len(batch), bool))
            y = torch.from_numpy(train.targets[order[step]]).to(how.ranks.device)
            with autocast(how):
                logits = model(x)
            loss = mixed_losses(partial(loss_of, logits.float()), y, mixture).mean()
            losses.append(loss.item())
            found = smooth(np.array(losses))
            if not np.isfinite(found[-1]) or found[-1] > EXPLODED * max(
                found.min(), found[min(START, step)] / EXPLODED
            ):
                break
            optimizer.zero_grad()
            loss.backward()
            for group in optimizer.param_groups:
                group["lr"] = tried[step] * scale * group["rate"]
            optimizer.step()
            seen(step + 1)
    found = smooth(np.array(losses))
    kept = np.isfinite(found)
    return RateCurve(tried[: len(found)][kept], found[kept])


def smooth(losses: np.ndarray) -> np.ndarray:
    """(M,) moving average of `losses` (M,), without the bias to 0 at its start."""
    average, found = 0.0, np.empty(len(losses))
    for step, loss in enumerate(losses):
        average = SMOOTH * average + (1 - SMOOTH) * loss
        found[step] = average / (1 - SMOOTH ** (step + 1))
    return found
