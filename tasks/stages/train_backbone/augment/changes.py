"""All changes of one epoch's training images, on their way from the pixels to the network.

They come from (seed, epoch) alone, so a resumed training sees the same images.
"""

import os
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tasks.common.params import TrainBackboneParams
from tasks.stages.train_backbone.augment.apply import augment, augment_some
from tasks.stages.train_backbone.augment.limits import POLICIES, Limits, limits
from tasks.stages.train_backbone.augment.mixing import Mixture, mix
from tasks.stages.train_backbone.augment.policies import WithPolicies
from tasks.stages.train_backbone.augment.resolution import epoch_side
from tasks.stages.train_backbone.phases import Phase

MOST_THREADS = 8  # that change pixels beside an accelerator


@dataclass(frozen=True)
class Changes:
    """`names`: of train_backbone.augment; `rare`: of .rare_augment; `mixed`: of .mix; `side` of the network's input."""

    names: tuple[str, ...]
    rare: tuple[str, ...]
    mixed: tuple[str, ...]
    limits: Limits
    side: int
    generator: torch.Generator
    rng: np.random.Generator

    @classmethod
    def of_epoch(cls, params: TrainBackboneParams, phase: Phase, done: int, side: int, seed: int) -> "Changes":
        """The changes of the epoch after `done` epochs of `phase`. Only the phase `all` has a resolution schedule."""
        schedule = params.resolution_schedule if phase.opened is None else ()
        return cls(
            names=tuple(params.augment),
            rare=tuple(params.rare_augment),
            mixed=tuple(params.mix),
            limits=limits(params),
            side=epoch_side(schedule, side, done, phase.epochs),
            generator=torch.Generator().manual_seed(seed),
            rng=np.random.default_rng(seed),
        )

    def pixels(self, inputs):
        """`inputs`, read by rows; pixels (N, S, S, 3) uint8 come changed by the policies.

        Beside an accelerator the processor's cores are free for them; without one they are busy training.
        """
        policies = tuple(name for name in self.names if name in POLICIES)
        if not policies or len(inputs.shape) != 4:
            return inputs
        threads = min(MOST_THREADS, os.cpu_count() or 1) if torch.accelerator.is_available() else 1
        return WithPolicies(inputs, policies, self.limits, self.rng, threads)

    def batch(self, x: Tensor, rare: np.ndarray) -> tuple[Tensor, Mixture | None]:
        """A batch changed and mixed, (B, C, side, side); features (B, D) of the phase `frozen` stay as they are.

        Images that are `rare`, (B,) bool, are changed more.
        """
        if x.ndim != 4:
            return x, None
        x = augment(x, self.names, self.generator, self.limits, self.side)
        x = augment_some(x, rare, self.rare, self.generator, self.limits)
        x, mixture = mix(x, self.mixed, self.generator)
        return x.contiguous(memory_format=torch.channels_last), mixture
