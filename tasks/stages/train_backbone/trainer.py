"""The training loop of stage 1, on arrays: keeps the best epoch, can be resumed.

N is the number of samples, K of classes, D of feature dimensions, S the side of the input in pixels.

Every epoch draws its order and its augmentation from (seed, epoch) alone. So a killed
run has no random state to restore: it repeats the epoch it was in and ends with the same weights.
"""

import math
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import Module, functional

from tasks.backbones import timm_models
from tasks.common.errors import EvergreenError
from tasks.common.failpoints import failpoint
from tasks.common.params import TrainBackboneParams
from tasks.dataset.shard_table import ShardTable
from tasks.models import probe
from tasks.scoring.metrics import average_precision, balanced_accuracy, per_class
from tasks.scoring.targets import class_counts
from tasks.stages.train_backbone import checkpoint
from tasks.stages.train_backbone.augment import augment
from tasks.stages.train_backbone.checkpoint import Checkpoint, State
from tasks.stages.train_backbone.depthwise import SmallMaps
from tasks.stages.train_backbone.phases import (
    Phase,
    best_epoch,
    moving_statistics,
    open_parts,
    parameter_groups,
    phase_over,
    plan,
    rate,
    rate_factor,
    set_mode,
)
from tasks.stages.train_backbone.processes import Ranks
from tasks.stages.train_backbone.progress import Progress

Inputs = ShardTable | np.ndarray
TAUS = (0.0, 0.25, 0.5, 0.75, 1.0)  # see `score`


@dataclass(frozen=True)
class Examples:
    """`pixels` (N, S, S, 3) uint8; `features` (N, D) of the network before training, or None; `targets` of
    targets.encode."""

    pixels: Inputs
    features: Inputs | None
    targets: np.ndarray

    def inputs(self, phase: Phase) -> Inputs:
        """What `phase` reads. The frozen phase trains the classifier on features: the same gradients as through the
        unchanging backbone, hundreds of times faster, and without augmentation."""
        return self.features if phase.opened == 0 else self.pixels


@dataclass(frozen=True)
class Setting:
    """What a training needs besides its data. `mean` and `std` (3,) scale the input."""

    params: TrainBackboneParams
    classes: int
    mean: Sequence[float]
    std: Sequence[float]
    ranks: Ranks


def fit(
    model: Module, train: Examples, calibration: Examples, how: Setting, file: Path | None = None
) -> tuple[State, list[dict]]:
    """Train `model` in place; returns (state of the best epoch, history).

    `file` is the checkpoint to continue from and to write; None: no checkpoint. History has one row per epoch: epoch
    (from 1), phase, learning_rate (at its end), train_loss, calibration_loss, calibration_score, calibration_error.
    Raises EvergreenError if a loss is not finite or the device runs out of memory.
    """
    params, ranks = how.params, how.ranks
    untouched = checkpoint.cpu_copy(model.state_dict())
    saved = checkpoint.load(file) if file else None
    history, best = (list(saved.history), saved.best) if saved else ([], {})
    if saved:
        model.load_state_dict(saved.model, strict=False)
        _report(ranks, f"continuing after epoch {len(history)}")
    elif train.features is not None:
        start_from_probe(model, train, how.classes)
    model.to(ranks.device)
    progress = Progress(plan(params), len(train.targets), lambda text: _report(ranks, text))
    for phase in plan(params):
        done = [row for row in history if row["phase"] == phase.name]
        if phase_over(done, phase, params.patience):
            continue
        open_parts(model, phase)
        network = timm_models.classifier(model) if phase.opened == 0 else model
        optimizer = torch.optim.AdamW(parameter_groups(model, params), fused=True)
        if done:
            checkpoint.restore_optimizer(optimizer, saved.optimizer)
        wrapped = ranks.wrap(network)
        while not phase_over(done, phase, params.patience):
            began = time.perf_counter()
            row = {"epoch": len(history) + 1, "phase": phase.name}
            seen = progress.epoch(row["epoch"], phase, len(done))
            row |= train_epoch(wrapped, optimizer, train, how, phase, row["epoch"], len(done), seen)
            seconds = time.perf_counter() - began
            ranks.share_buffers(network)
            row |= judge(network, calibration, how, phase, row["epoch"], class_counts(train.targets, how.classes))
            history.append(row)
            done.append(row)
            state = _touched(model)
            best = state if best_epoch(history) == row["epoch"] else best
            if file and ranks.rank == 0:
                checkpoint.save(file, Checkpoint(history, state, best, checkpoint.optimizer_state(optimizer)))
            if ranks.rank == 0:
                failpoint(f"train_backbone.epoch.{row['epoch']}")
            ended = phase_over(done, phase, params.patience)
            if seconds > 1 or ended:  # not every epoch on features: they take milliseconds
                _report(ranks, _line(row, phase, len(done), len(train.targets) / seconds))
    return untouched | best, history


def start_from_probe(model: Module, train: Examples, classes: int) -> None:
    """Make the classifier the best linear one on the untrained backbone's features.

    A random classifier distorts the pretrained layers while it learns (Kumar et al. 2022, "Fine-tuning can distort
    pretrained features and underperform out-of-distribution").
    """
    fitted, last = probe.fit(train.features, train.targets, classes), timm_models.classifier(model)
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
    optimizer: torch.optim.AdamW,
    train: Examples,
    how: Setting,
    phase: Phase,
    epoch: int,
    done: int,
    seen: Callable[[int], None] = lambda images: None,
) -> dict:
    """One pass over `train`, after `done` epochs of the phase. Returns learning_rate and train_loss.

    Each process takes its share of every batch; the gradient is that of the whole batch. `seen` is called with the
    number of images after each batch.
    """
    params, ranks, inputs = how.params, how.ranks, train.inputs(phase)
    order = batch_order(len(train.targets), params, epoch)
    if (smallest := min(map(len, order))) < ranks.world:
        raise EvergreenError(
            f"train_backbone.batch_size: batches of {smallest} images cannot be split between "
            f"{ranks.world} processes (they share each batch; {len(train.targets)} training images): raise it or start "
            "fewer processes"
        )
    seed = int(np.random.SeedSequence([params.seed, epoch, ranks.rank]).generate_state(1)[0])
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)  # dropout inside the network
    set_mode(network, moving_statistics(params))
    shares = [batch[ranks.rank :: ranks.world] for batch in order]
    steps = [(done * len(order) + step, phase.epochs * len(order)) for step in range(len(order))]
    rates = [rate(phase, params) * rate_factor(phase, *step) for step in steps]
    losses = torch.zeros(len(order), device=ranks.device)
    small_maps = SmallMaps() if ranks.device.type == "cpu" else nullcontext()
    try:
        for step, batch in enumerate(prefetch(shares, inputs)):
            for group in optimizer.param_groups:
                group["lr"] = rates[step]
            x = to_input(batch, how)
            if x.ndim == 4:
                x = augment(x, params.augment, generator).contiguous(memory_format=torch.channels_last)
            y = torch.from_numpy(train.targets[shares[step]]).to(ranks.device)
            with autocast(how), small_maps:
                logits = network(x)
            loss = sample_losses(logits.float(), y, params.label_smoothing).sum() / len(order[step])
            optimizer.zero_grad()
            (loss * ranks.world).backward()  # gradients are averaged over processes: undo the division
            optimizer.step()
            losses[step] = loss.detach()
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


def batch_order(rows: int, params: TrainBackboneParams, epoch: int) -> list[np.ndarray]:
    """A permutation of `rows` in batches whose sizes differ by at most one: no batch is too small for BatchNorm."""
    order = np.random.default_rng([params.seed, epoch]).permutation(rows)
    return np.array_split(order, math.ceil(rows / params.batch_size))


def prefetch(index: Sequence[np.ndarray], inputs: Inputs, depth: int = 2) -> Iterator[Tensor]:
    """`inputs[rows]` for each `rows` of `index`, read by a thread while the device works on the batch before."""
    pinned = torch.cuda.is_available()

    def gather(rows: np.ndarray) -> Tensor:
        batch = torch.from_numpy(inputs[rows])
        return batch.pin_memory() if pinned else batch

    with ThreadPoolExecutor(1) as thread:
        waiting = deque(thread.submit(gather, rows) for rows in index[:depth])
        for number in range(len(index)):
            batch = waiting.popleft().result()
            if number + depth < len(index):
                waiting.append(thread.submit(gather, index[number + depth]))
            yield batch


def to_input(batch: Tensor, how: Setting) -> Tensor:
    """Pixels (B, S, S, 3) uint8 become normalised (B, 3, S, S), features stay (B, D); float32 on the device."""
    if batch.dtype == torch.uint8:
        return timm_models.to_input(batch, how.mean, how.std, how.ranks.device)
    return batch.to(how.ranks.device).float()


def autocast(how: Setting) -> torch.autocast:
    """Mixed precision if params.precision asks for it, or is auto on a GPU that has bfloat16."""
    kind, wanted = how.ranks.device.type, how.params.precision
    half = wanted == "bfloat16" or (wanted == "auto" and kind == "cuda" and torch.cuda.is_bf16_supported())
    return torch.autocast(kind, torch.bfloat16, enabled=half)


def sample_losses(logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
    """(B,) cross-entropy; for multi-label targets (B, K) binary cross-entropy, averaged over classes."""
    if targets.ndim == 1:
        return functional.cross_entropy(logits, targets, label_smoothing=smoothing, reduction="none")
    soft = targets * (1 - smoothing) + smoothing / 2
    return functional.binary_cross_entropy_with_logits(logits, soft, reduction="none").mean(dim=1)


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
