"""The changes named in train_backbone.augment as operations on batches, on the batch's own device.

Images are (B, C, S, S) float and *normalised* (mean near 0, deviation near 1 per channel), as the network takes them.
Labels never change, so every change is safe for single- and multi-label data.

All random numbers are drawn on the CPU from one generator: a batch is changed the same way on every device. Policies
(RandAugment and its kin) change the pixels before that, see `policies`.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from tasks.stages.train_backbone.augment.colour import colour_jitter, erase, lose_colour, turn_hue
from tasks.stages.train_backbone.augment.geometry import GEOMETRIC, random_view
from tasks.stages.train_backbone.augment.limits import MOST_DETAIL, Limits

CHANGES = {"colour": colour_jitter, "hue": turn_hue, "grey": lose_colour, "erase": erase}


def augment(
    images: Tensor,
    names: Sequence[str],
    generator: torch.Generator,
    limits: Limits = Limits(),  # noqa: B008 (immutable)
    side: int | None = None,
) -> Tensor:
    """`images` with the changes in `names`, drawn for each image; (B, C, side, side). `side` None: as it is.

    All geometric changes and the change of size are one resampling, so that an image is blurred only once.
    """
    side = side or images.shape[-1]
    if not len(images):
        return images.new_empty((*images.shape[:2], side, side))
    geometric = [name for name in GEOMETRIC if name in names]
    largest = round(MOST_DETAIL * side) if "resized_crop" in geometric else side
    if images.shape[-1] > largest:
        images = shrink(images, largest)
    if geometric:
        images = random_view(images, geometric, limits, side, generator)
    for name, change in CHANGES.items():
        if name in names:
            images = change(images, generator)
    return images


def augment_some(
    images: Tensor, chosen: np.ndarray, names: Sequence[str], generator: torch.Generator, limits: Limits
) -> Tensor:
    """`images` (B, C, S, S) with the changes in `names` where `chosen` (B,) bool; the others stay as they are."""
    if not names or not chosen.any():
        return images
    images = images.clone()
    where = torch.from_numpy(chosen).to(images.device)
    images[where] = augment(images[where], names, generator, limits)
    return images


def shrink(images: Tensor, side: int) -> Tensor:
    """`images` at (side, side), each pixel the average of those it replaces."""
    return functional.interpolate(images, (side, side), mode="bilinear", antialias=True, align_corners=False)
