"""MixUp and CutMix: each image becomes a mixture of itself and a random other one of its batch.

The loss of a mixture is the mixture of the losses for the two labels, in the same shares. For cross entropy that is the
loss of the mixed label, and it works for every other loss, too.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tasks.stages.train_backbone.augment.colour import rectangles

MIXUP_ALPHA = 0.2  # of the Beta distribution of the shares: most mixtures are nearly one image (Zhang et al. 2018)
CUTMIX_ALPHA = 1.0  # every share is as likely (Yun et al. 2019)


@dataclass(frozen=True)
class Mixture:
    """`partner` (B,): the row of the other image; `share` (B,): how much of each image is its own."""

    partner: Tensor
    share: Tensor


def mix(images: Tensor, names: Sequence[str], generator: torch.Generator) -> tuple[Tensor, Mixture | None]:
    """`images` (B, C, S, S) mixed by one of `names` ("mixup", "cutmix"), drawn for the batch; no names: as they are."""
    if not names or not len(images):
        return images, None
    name = names[int(torch.randint(len(names), (1,), generator=generator))]
    partner = torch.randperm(len(images), generator=generator)
    rng = np.random.default_rng(
        int(torch.randint(2**62, (1,), generator=generator))
    )  # torch has no Beta of a generator
    alpha = MIXUP_ALPHA if name == "mixup" else CUTMIX_ALPHA
    share = torch.from_numpy(rng.beta(alpha, alpha, len(images))).float()
    if name == "mixup":
        mixture = Mixture(partner.to(images.device), share.to(images.device))
        weight = mixture.share[:, None, None, None].to(images.dtype)
        return weight * images + (1 - weight) * images[mixture.partner], mixture
    return cut_in(images, partner, share, torch.rand(len(images), 2, generator=generator))


def cut_in(images: Tensor, partner: Tensor, share: Tensor, centre: Tensor) -> tuple[Tensor, Mixture]:
    """A square of the partner about `centre` (B, 2; shares of the side) replaces about 1 - `share` of each image.

    The part of the square outside the image is cut off; the mixture's share is what really remained.
    """
    half = ((1 - share).sqrt() / 2)[:, None]
    covered = rectangles(centre - half, centre + half, images.shape[-1])
    remained = 1 - covered.float().mean(dim=(1, 2))
    mixture = Mixture(partner.to(images.device), remained.to(images.device))
    mixed = torch.where(covered[:, None].to(images.device), images[mixture.partner], images)
    return mixed, mixture


def mixed_losses(losses: Callable[[Tensor], Tensor], targets: Tensor, mixture: Mixture | None) -> Tensor:
    """(B,) `losses` for `targets`, mixed with those for the partners' targets in the shares of `mixture`."""
    if mixture is None:
        return losses(targets)
    return mixture.share * losses(targets) + (1 - mixture.share) * losses(targets[mixture.partner])
