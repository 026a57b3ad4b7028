"""Brings batches to the device: read ahead, scaled, in the precision asked for."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from tasks.backbones import timm_models
from tasks.common.params import TrainBackboneParams
from tasks.dataset.shard_table import ShardTable
from tasks.stages.train_backbone.phases import (
    Phase,
)
from tasks.stages.train_backbone.processes import Ranks

if TYPE_CHECKING:
    from tasks.stages.train_backbone.teachers import Teachers

Inputs = ShardTable | np.ndarray


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
    """What a training needs besides its data. `mean` and `std` (3,) scale the input; `half`: in bfloat16.

    `side` is that of the network's input; None: that of the pixels, which are larger for `resized_crop`.
    `teachers`: to learn from beside the labels.
    """

    params: TrainBackboneParams
    classes: int
    mean: Sequence[float]
    std: Sequence[float]
    ranks: Ranks
    half: bool = False
    side: int | None = None
    teachers: "Teachers | None" = None


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
    """Mixed precision where `precision.use_bfloat16` chose it."""
    return torch.autocast(how.ranks.device.type, torch.bfloat16, enabled=how.half)
