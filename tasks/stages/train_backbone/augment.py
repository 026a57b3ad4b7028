"""Random changes of training images as batched tensor operations, on the batch's own device.

Images are (B, C, S, S) float and *normalised* (mean near 0, deviation near 1 per channel), as the network
takes them. So "brightness" is a shift, and erased parts get 0, the average colour. Labels never change, so every
change is safe for single- and multi-label data.

All random numbers are drawn on the CPU from one generator: a batch is changed the same way on every device.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

CROP_AREA = (0.6, 1.0)  # share of the image's area that a crop keeps
CROP_ASPECT = (3 / 4, 4 / 3)  # width : height of a crop, drawn evenly on a log scale
ROTATION = 15.0  # degrees, either way
COLOUR = 0.3  # largest relative change of contrast and saturation, largest shift of brightness in deviations
ERASE_AREA = (0.02, 0.2)  # share of the image's area that is erased ...
ERASE_CHANCE = 0.5  # ... in this share of the images


def augment(images: Tensor, names: Sequence[str], generator: torch.Generator) -> Tensor:
    """`images` (B, C, S, S) float with the changes in `names` (train_backbone.augment), drawn for each image.

    Crop, flip and rotation are one resampling of the image, so that it is blurred only once.
    """
    if not names or not len(images):
        return images
    geometric = {"crop", "flip", "rotate"} & set(names)
    if geometric:
        theta = random_affine(len(images), geometric, generator).to(images)
        images = resample(images, theta)
    if "colour" in names:
        images = colour_jitter(images, generator)
    if "erase" in names:
        images = erase(images, generator)
    return images


def augment_some(images: Tensor, chosen: np.ndarray, names: Sequence[str], generator: torch.Generator) -> Tensor:
    """`images` (B, C, S, S) with the changes in `names` where `chosen` (B,) bool; the others stay as they are."""
    if not names or not chosen.any():
        return images
    images = images.clone()
    where = torch.from_numpy(chosen).to(images.device)
    images[where] = augment(images[where], names, generator)
    return images


def uniform(size: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    """(size,) evenly distributed in [low, high)."""
    return low + (high - low) * torch.rand(size, generator=generator)


def random_affine(batch: int, names: set[str], generator: torch.Generator) -> Tensor:
    """(B, 2, 3) matrices from output to input coordinates (both -1 to 1, x before y) for a random crop, flip, rotation.

    A crop never reaches over the border; a rotated image's corners do (`resample` mirrors there).
    """
    scale, shift = torch.ones(batch, 2), torch.zeros(batch, 2)
    if "crop" in names:
        area = uniform(batch, *CROP_AREA, generator)
        aspect = torch.exp(uniform(batch, math.log(CROP_ASPECT[0]), math.log(CROP_ASPECT[1]), generator))
        scale = torch.stack([(area * aspect).sqrt(), (area / aspect).sqrt()], dim=1).clamp(max=1)
        shift = (1 - scale) * torch.stack([uniform(batch, -1, 1, generator) for _ in range(2)], dim=1)
    if "flip" in names:
        scale[:, 0] *= torch.where(torch.rand(batch, generator=generator) < 0.5, -1.0, 1.0)
    angle = torch.zeros(batch)
    if "rotate" in names:
        angle = torch.deg2rad(uniform(batch, -ROTATION, ROTATION, generator))
    cos, sin = angle.cos(), angle.sin()
    turn = torch.stack([torch.stack([cos, -sin], dim=1), torch.stack([sin, cos], dim=1)], dim=1)
    return torch.cat([turn * scale[:, None, :], shift[:, :, None]], dim=2)


def resample(images: Tensor, theta: Tensor) -> Tensor:
    """`images` (B, C, S, S) seen through `theta` (B, 2, 3), bilinear, mirrored at the border."""
    grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def colour_jitter(images: Tensor, generator: torch.Generator) -> Tensor:
    """Random contrast and saturation (factors about 1) and brightness (a shift), drawn for each image."""

    def draw(centre: float) -> Tensor:
        factor = uniform(len(images), centre - COLOUR, centre + COLOUR, generator)
        return factor.to(images)[:, None, None, None]

    contrast, saturation, brightness = draw(1), draw(1), draw(0)
    grey = images.mean(dim=1, keepdim=True)
    centre = grey.mean(dim=(2, 3), keepdim=True)
    return (grey + (images - grey) * saturation - centre) * contrast + centre + brightness


def erase(images: Tensor, generator: torch.Generator) -> Tensor:
    """Replace a random rectangle of some images by the average colour, 0 (Zhong et al. 2020, "Random Erasing")."""
    batch, side = len(images), images.shape[-1]
    area = uniform(batch, *ERASE_AREA, generator)
    aspect = torch.exp(uniform(batch, -1, 1, generator))
    size = torch.stack([(area * aspect).sqrt(), (area / aspect).sqrt()], dim=1).clamp(max=1)  # width, height
    start = (1 - size) * torch.rand(batch, 2, generator=generator)
    chosen = torch.rand(batch, generator=generator) < ERASE_CHANCE
    at = (torch.arange(side) + 0.5) / side
    inside = (at >= start[..., None]) & (at < (start + size)[..., None])  # (B, 2, S): columns, rows
    hidden = inside[:, 1, :, None] & inside[:, 0, None, :] & chosen[:, None, None]
    return images.masked_fill(hidden[:, None].to(images.device), 0.0)
