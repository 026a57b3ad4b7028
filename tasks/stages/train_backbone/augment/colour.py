"""Random changes of colour, and erased parts, drawn for each image.

Images are normalised, (B, C, S, S) float: the mean of each channel is near 0 and its deviation near 1. So brightness is
a shift, and erased parts get 0, the average colour.
"""

import math

import torch
from torch import Tensor

from tasks.stages.train_backbone.augment.geometry import uniform

COLOUR = 0.3  # largest relative change of contrast and saturation, largest shift of brightness in deviations
HUE = 0.1  # of a whole turn of the colour circle, either way
GREY_CHANCE = 0.2  # of the images lose their colours (as in SimCLR, Chen et al. 2020)
ERASE_AREA = (0.02, 0.2)  # share of the image's area that is erased ...
ERASE_CHANCE = 0.5  # ... in this share of the images


def colour_jitter(images: Tensor, generator: torch.Generator) -> Tensor:
    """Random contrast and saturation (factors about 1) and brightness (a shift), drawn for each image."""

    def draw(centre: float) -> Tensor:
        factor = uniform(len(images), centre - COLOUR, centre + COLOUR, generator)
        return factor.to(images)[:, None, None, None]

    contrast, saturation, brightness = draw(1), draw(1), draw(0)
    grey = images.mean(dim=1, keepdim=True)
    centre = grey.mean(dim=(2, 3), keepdim=True)
    return (grey + (images - grey) * saturation - centre) * contrast + centre + brightness


def turn_hue(images: Tensor, generator: torch.Generator) -> Tensor:
    """Turn all colours of an image by one random angle about the grey axis (Haeberli 1993): grey stays grey."""
    return hue_turned(images, uniform(len(images), -HUE, HUE, generator) * 2 * math.pi)


def hue_turned(images: Tensor, angle: Tensor) -> Tensor:
    """`images` (B, 3, S, S) with colours turned by `angle` (B,) radians; a third of a turn maps red to green to blue.

    By Rodrigues' formula about the axis (1, 1, 1) / sqrt(3).
    """
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    cross = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    turn = cos * torch.eye(3) + sin * cross + (1 - cos) / 3
    return torch.einsum("bij,bjhw->bihw", turn.to(images), images)


def lose_colour(images: Tensor, generator: torch.Generator) -> Tensor:
    """Make some of the images grey: each pixel gets the mean of its channels."""
    chosen = (torch.rand(len(images), generator=generator) < GREY_CHANCE).to(images.device)
    return torch.where(chosen[:, None, None, None], images.mean(dim=1, keepdim=True), images)


def erase(images: Tensor, generator: torch.Generator) -> Tensor:
    """Replace a random rectangle of some images by the average colour, 0 (Zhong et al. 2020, "Random Erasing")."""
    batch, side = len(images), images.shape[-1]
    area = uniform(batch, *ERASE_AREA, generator)
    aspect = torch.exp(uniform(batch, -1, 1, generator))
    size = torch.stack([(area * aspect).sqrt(), (area / aspect).sqrt()], dim=1).clamp(max=1)  # width, height
    start = (1 - size) * torch.rand(batch, 2, generator=generator)
    chosen = torch.rand(batch, generator=generator) < ERASE_CHANCE
    hidden = rectangles(start, start + size, side) & chosen[:, None, None]
    return images.masked_fill(hidden[:, None].to(images.device), 0.0)


def rectangles(start: Tensor, end: Tensor, side: int) -> Tensor:
    """(B, S, S) bool: the pixels between `start` and `end`, (B, 2) each: x, y as shares of the side."""
    at = (torch.arange(side) + 0.5) / side
    inside = (at >= start[..., None]) & (at < end[..., None])  # (B, 2, S): columns, rows
    return inside[:, 1, :, None] & inside[:, 0, None, :]
