"""Which parts of the network train in which epochs, at which rate, and which epoch to keep.

The classifier starts as the best linear one on the pretrained features (`trainer.start_from_probe`), so that it does
not spoil the pretrained layers with random gradients. By default everything then trains at once, with a cosine to zero.
Phases for the classifier alone ("frozen") and for the last blocks ("last") can come first: their time was better spent
on everything. The classifier trains at the rate of the pretrained layers, a fifth.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch.nn import Module
from torch.nn.modules.batchnorm import _BatchNorm

from tasks.backbones import timm_models
from tasks.common.params import TrainBackboneParams

CLEAR = 2.0  # standard errors by which an earlier epoch must be ahead of a later one to be kept instead


@dataclass(frozen=True)
class Phase:
    """`opened` is the number of blocks that train, from the end; 0: only the classifier; None: everything."""

    name: str
    epochs: int
    opened: int | None


def plan(params: TrainBackboneParams) -> list[Phase]:
    """The phases that have epochs.

    From scratch, everything trains at once for the epochs of "last" and "all". A classifier on frozen random layers
    learns nothing useful, so the (cheap) frozen epochs are left out. With `tuning: linear` all epochs are frozen.
    """
    epochs = params.epochs
    if params.pretrained == "none":
        phases = [Phase("all", epochs.last + epochs.all, None)]
    elif params.tuning == "linear":
        phases = [Phase("frozen", epochs.frozen + epochs.last + epochs.all, 0)]
    else:
        phases = [
            Phase("frozen", epochs.frozen, 0),
            Phase("last", epochs.last, params.last_blocks),
            Phase("all", epochs.all, None),
        ]
    return [phase for phase in phases if phase.epochs]


def open_parts(model: Module, phase: Phase) -> None:
    """Turn gradients on for the parts that `phase` trains, and off for all others."""
    model.requires_grad_(phase.opened is None)
    if phase.opened is not None:
        for part in [timm_models.top(model), *timm_models.blocks(model)[::-1][: phase.opened]]:
            part.requires_grad_(True)


def set_mode(network: Module, moving_statistics: bool) -> None:
    """Training mode for the parts that train; the rest runs as in inference, without dropout.

    BatchNorm keeps its statistics unless `moving_statistics`; its scale and shift train with their block.
    """
    network.eval()
    for module in network.modules():
        if any(value.requires_grad for value in module.parameters()):
            module.training = True
            for child in module.children():
                if not any(True for _ in child.parameters()):  # dropout belongs to its block
                    child.train()
    if not moving_statistics:
        for module in network.modules():
            if isinstance(module, _BatchNorm):
                module.eval()


def moving_statistics(params: TrainBackboneParams) -> bool:
    """Whether BatchNorm learns its statistics. Without pretrained weights there are none to keep."""
    return params.batch_norm == "train" or params.pretrained == "none"


def best_epoch(history: Sequence[dict]) -> int:
    """Number of the epoch to keep, from 1: the latest one that is not clearly worse than the one with the best score.

    The highest of several noisy scores is often luck, and the rate falls to zero with the last epochs. Clearly: by more
    than CLEAR standard errors of the best score (after the one-standard-error rule of Breiman et al. 1984).
    """
    top = max(history, key=_rank)
    least = top["calibration_score"] - CLEAR * top["calibration_error"]
    return max(row["epoch"] for row in history if row["calibration_score"] >= least)


def _rank(row: dict) -> tuple[float, float, int]:
    """Sort key of an epoch (a row of the history): higher score, then lower loss, then later."""
    return row["calibration_score"], -row["calibration_loss"], row["epoch"]


def phase_over(done: Sequence[dict], phase: Phase, patience: int) -> bool:
    """Whether `phase` has had its epochs (`done`: their rows), or `patience` of them (0: any number) without gain."""
    stalled = bool(done and patience) and done[-1]["epoch"] - max(done, key=_rank)["epoch"] >= patience
    return stalled or len(done) >= phase.epochs
