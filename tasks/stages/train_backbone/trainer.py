"""The training loop of stage 1, on arrays: keeps the best epoch, can be resumed.

N is the number of samples, K of classes, D of feature dimensions, S the side of the input in pixels.

Every epoch draws its order and its augmentation from (seed, epoch) alone. So a killed
run has no random state to restore: it repeats the epoch it was in and ends with the same weights.
"""

import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.nn import Module

from tasks.backbones import timm_models
from tasks.common.errors import EvergreenError
from tasks.common.failpoints import failpoint
from tasks.common.params import TrainBackboneParams
from tasks.models import probe
from tasks.models.extended import start_features
from tasks.scoring.targets import class_counts
from tasks.stages.train_backbone import checkpoint, light
from tasks.stages.train_backbone.augment.changes import Changes
from tasks.stages.train_backbone.augment.mixing import mixed_losses
from tasks.stages.train_backbone.averages import average_state, start_average
from tasks.stages.train_backbone.checkpoint import Checkpoint, State
from tasks.stages.train_backbone.depthwise import SmallMaps
from tasks.stages.train_backbone.distill import Watched, logits_of, with_teachers
from tasks.stages.train_backbone.feeding import Examples, Setting, autocast, prefetch, to_input
from tasks.stages.train_backbone.judging import judge
from tasks.stages.train_backbone.losses import epoch_loss
from tasks.stages.train_backbone.optimisation import optimizer_of, rate, rate_factor, steps_of
from tasks.stages.train_backbone.phases import (
    Phase,
    best_epoch,
    moving_statistics,
    open_parts,
    phase_over,
    plan,
    set_mode,
)
from tasks.stages.train_backbone.precision import use_bfloat16
from tasks.stages.train_backbone.processes import Ranks
from tasks.stages.train_backbone.progress import Progress
from tasks.stages.train_backbone.sampling import epoch_batches, epoch_images, rare_draws


def fit(
    model: Module, train: Examples, calibration: Examples, how: Setting, file: Path | None = None
) -> tuple[State, list[dict]]:
    """Train `model` in place; returns (state of the best epoch, history).

    `file` is the checkpoint to continue from and to write; None: no checkpoint. History has one row per epoch: epoch
    (from 1), phase, learning_rate (at its end), train_loss, calibration_loss, calibration_score, calibration_error.
    Raises EvergreenError if a loss is not finite or the device runs out of memory.
    """
    params: TrainBackboneParams = how.params
    ranks = how.ranks
    how = replace(how, half=use_bfloat16(params.precision, model, ranks.device))
    untouched = checkpoint.cpu_copy(model.state_dict())
    keeps = file is not None and ranks.keeps(file.parents[1])
    saved = checkpoint.newest(file, ranks) if file else None
    light.attach(model, params)
    history, best = (list(saved.history), saved.best) if saved else ([], {})
    if saved:
        model.load_state_dict(saved.model, strict=False)
        _report(ranks, f"continuing after epoch {len(history)}")
    elif train.features is not None:
        start_from_probe(model, train, how.classes)
    model.to(ranks.device)
    images = epoch_images(train.targets, how.classes, params)
    progress = Progress(plan(params), images, lambda text: _report(ranks, text))
    for phase in plan(params):
        done = [row for row in history if row["phase"] == phase.name]
        if phase_over(done, phase, params.patience):
            continue
        open_parts(model, phase)
        light.close_others(model, params)
        network = timm_models.head(model) if phase.opened == 0 else model
        optimizer = optimizer_of(model, params)
        average = start_average(model, params.ema, saved.average if done else None)
        kept = average.module if average else model
        judged = timm_models.head(kept) if phase.opened == 0 else kept
        stepped = partial(average.update_parameters, model) if average else lambda: None
        if done:
            checkpoint.restore_optimizer(optimizer, saved.optimizer)
        taught = how.teachers is not None and phase.opened != 0  # the frozen phase sees features, not images
        wrapped = ranks.wrap(Watched(network) if taught else network)
        while not phase_over(done, phase, params.patience):
            began = time.perf_counter()
            row = {"epoch": len(history) + 1, "phase": phase.name}
            seen = progress.epoch(row["epoch"], phase, len(done))
            row |= train_epoch(wrapped, optimizer, train, how, phase, row["epoch"], len(done), seen, stepped)
            seconds = time.perf_counter() - began
            ranks.share_buffers(judged)
            row |= judge(judged, calibration, how, phase, row["epoch"], class_counts(train.targets, how.classes))
            history.append(row)
            done.append(row)
            state = _touched(model)
            if best_epoch(history) == row["epoch"]:
                best = _touched(kept) if average else state
            if keeps:
                moments = checkpoint.optimizer_state(optimizer)
                checkpoint.save(file, Checkpoint(history, state, best, moments, average_state(average)))
            if ranks.rank == 0:
                failpoint(f"train_backbone.epoch.{row['epoch']}")
            ended = phase_over(done, phase, params.patience)
            if seconds > 1 or ended:  # not every epoch on features: they take milliseconds
                _report(ranks, _line(row, phase, len(done), images / seconds))
    light.detach(model)
    return light.merge(untouched, best), history


def start_from_probe(model: Module, train: Examples, classes: int) -> None:
    """Make the classifier the best linear one on the untrained backbone's features.

    A random classifier distorts the pretrained layers while it learns (Kumar et al. 2022, "Fine-tuning can distort
    pretrained features and underperform out-of-distribution").
    """
    last = timm_models.classifier(model)
    fitted = probe.fit(start_features(model, train.features), train.targets, classes)
    with torch.no_grad():
        last.weight.copy_(torch.from_numpy(fitted.weight))
        if last.bias is not None:
            last.bias.copy_(torch.from_numpy(fitted.bias))


def _touched(model: Module) -> State:
    """The tensors that training may have changed so far: each phase opens more than the one before."""
    names = {name for name, value in model.named_parameters() if value.requires_grad}
    names |= {name for name, _ in model.named_buffers()}
    return checkpoint.cpu_copy({name: value for name, value in model.state_dict().items() if name in names})


def _line(row: dict, phase: Phase, done: int, rate: float) -> str:
    return (
        f"epoch {row['epoch']:3d}  {phase.name:6s} {done:3d}/{phase.epochs}  train loss {row['train_loss']:.3f}  "
        f"calibration loss {row['calibration_loss']:.3f}  score {row['calibration_score']:.3f}  {rate:,.0f} images/s"
    )


def _report(ranks: Ranks, text: str) -> None:
    if ranks.rank == 0:
        print(f"train_backbone: {text}", file=sys.stderr, flush=True)


def train_epoch(
    network: Module,
    optimizer: torch.optim.Optimizer,
    train: Examples,
    how: Setting,
    phase: Phase,
    epoch: int,
    done: int,
    seen: Callable[[int], None] = lambda images: None,
    stepped: Callable[[], None] = lambda: None,
) -> dict:
    """One pass over `train`, after `done` epochs of the phase. Returns learning_rate and train_loss.

    Each process takes its share of every batch; a step's gradient is that of all its images. `seen` is called with the
    number of images after each batch, `stepped` after each step.
    """
    params, ranks, inputs = how.params, how.ranks, train.inputs(phase)
    progress = done / (phase.epochs - 1) if phase.epochs > 1 else 1.0
    order = epoch_batches(train.targets, how.classes, params, epoch, progress)
    if (smallest := min(map(len, order))) < ranks.world:
        raise EvergreenError(
            f"train_backbone.batch_size: batches of {smallest} images cannot be split between "
            f"{ranks.world} processes (they share each batch; {sum(map(len, order))} images an epoch): raise it or "
            "start fewer processes"
        )
    seed = int(np.random.SeedSequence([params.seed, epoch, ranks.rank]).generate_state(1)[0])
    changes = Changes.of_epoch(params, phase, done, how.side or train.pixels.shape[1], seed)
    torch.manual_seed(seed)  # dropout inside the network
    set_mode(network, moving_statistics(params))
    drawn = class_counts(train.targets[np.concatenate(order)], how.classes)
    loss_of = epoch_loss(params.loss, drawn, params.label_smoothing, progress, ranks.device)
    rare = rare_draws(order, train.targets, class_counts(train.targets, how.classes), params, epoch)
    shares = [batch[ranks.rank :: ranks.world] for batch in order]
    many = steps_of(len(order), params.accumulate)
    together = [sum(map(len, order[at : at + params.accumulate])) for at in range(0, len(order), params.accumulate)]
    factors = [rate_factor(phase, done * many + number, phase.epochs * many, params.schedule) for number in range(many)]
    rates = [rate(phase, params) * factors[step // params.accumulate] for step in range(len(order))]
    losses = torch.zeros(len(order), device=ranks.device)
    small_maps = SmallMaps() if ranks.device.type == "cpu" else nullcontext()
    try:
        for step, batch in enumerate(prefetch(shares, changes.pixels(inputs))):
            first, last = step % params.accumulate == 0, step + 1 == len(order) or (step + 1) % params.accumulate == 0
            x, mixture = changes.batch(to_input(batch, how), rare[step][ranks.rank :: ranks.world])
            y = torch.from_numpy(train.targets[shares[step]]).to(ranks.device)
            with nullcontext() if last else ranks.apart(network):
                with autocast(how), small_maps:
                    found = network(x)
                of_labels = mixed_losses(partial(loss_of, logits_of(found)), y, mixture)
                loss = with_teachers(of_labels, found, x, how).sum()
                if first:
                    optimizer.zero_grad()
                # gradients are averaged over processes: undo the division
                (loss / together[step // params.accumulate] * ranks.world).backward()
            if last:
                for group in optimizer.param_groups:
                    group["lr"] = rates[step] * group.get("rate", 1.0)
                optimizer.step()
                stepped()
            losses[step] = loss.detach() / len(order[step])
            seen(sum(map(len, order[: step + 1])))
    except torch.OutOfMemoryError as error:
        raise EvergreenError(
            f"epoch {epoch} (phase {phase.name}): {ranks.device} ran out of memory with batches of "
            f"{params.batch_size} images: lower train_backbone.batch_size or images.resolution"
        ) from error
    losses = ranks.sum(losses).cpu().numpy()
    if not np.isfinite(losses).all():
        step = int(np.flatnonzero(~np.isfinite(losses))[0])
        raise EvergreenError(
            f"the training loss is {losses[step]:g} in epoch {epoch} (phase {phase.name}), batch {step + 1} of "
            f"{len(order)}, at learning rate {rates[step]:g}: lower "
            f"train_backbone.learning_rate (now {params.learning_rate:g}) or set train_backbone.precision: float32"
        )
    mean = float(np.average(losses, weights=[len(batch) for batch in order]))
    return {"learning_rate": rates[-1], "train_loss": mean}
