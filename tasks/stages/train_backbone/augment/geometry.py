"""Random crops, flips, rotations and distortions of images as one resampling: blurred only once.

Images are (B, C, S, S). A change is a matrix from coordinates of the output to those of the input (both -1 to 1 from
edge to edge, x before y): the crop is the outermost, so it sees the image after all others.
"""

import math
from collections.abc import Collection

import torch
from torch import Tensor
from torch.nn import functional

from tasks.stages.train_backbone.augment.limits import Limits

GEOMETRIC = ("crop", "resized_crop", "flip", "vertical_flip", "rotate", "affine", "perspective")
CROP_AREA = (0.6, 1.0)  # share of the image's area that `crop` keeps
CROP_ASPECT = (3 / 4, 4 / 3)  # width : height of a crop, drawn evenly on a log scale
ZOOM = (0.8, 1.25)  # of `affine`, drawn evenly on a log scale
SHEAR = 10.0  # degrees, either way
MOVE = 0.1  # share of the side, either way
DISTORTION = 0.25  # largest move of a corner by `perspective`, of half a side ...
DISTORTION_CHANCE = 0.5  # ... in this share of the images


def uniform(size: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    """(size,) evenly distributed in [low, high)."""
    return low + (high - low) * torch.rand(size, generator=generator)


def random_view(
    images: Tensor, names: Collection[str], limits: Limits, side: int, generator: torch.Generator
) -> Tensor:
    """`images` (B, C, S, S) after the geometric changes in `names`, resampled to (B, C, side, side)."""
    theta = random_affine(len(images), set(names), generator, limits)
    if "perspective" not in names:
        return resample(images, theta.to(images), side)
    square = torch.cat([theta, torch.tensor([0.0, 0, 1]).expand(len(images), 1, 3)], dim=1)
    return resample_projective(images, (square @ random_perspective(len(images), generator)).to(images), side)


def random_affine(batch: int, names: set[str], generator: torch.Generator, limits: Limits = Limits()) -> Tensor:  # noqa: B008
    """(B, 2, 3) matrices from output to input for a random crop, flip, rotation, shear, zoom and move.

    A crop never reaches over the border; a rotated image's corners do (`resample` mirrors there).
    """
    scale, shift = torch.ones(batch, 2), torch.zeros(batch, 2)
    if {"crop", "resized_crop"} & names:
        area = uniform(batch, *((limits.crop_area, 1.0) if "resized_crop" in names else CROP_AREA), generator)
        aspect = torch.exp(uniform(batch, math.log(CROP_ASPECT[0]), math.log(CROP_ASPECT[1]), generator))
        scale = torch.stack([(area * aspect).sqrt(), (area / aspect).sqrt()], dim=1).clamp(max=1)
        shift = (1 - scale) * torch.stack([uniform(batch, -1, 1, generator) for _ in range(2)], dim=1)
    for name, axis in (("flip", 0), ("vertical_flip", 1)):
        if name in names:
            scale[:, axis] *= torch.where(torch.rand(batch, generator=generator) < 0.5, -1.0, 1.0)
    angle = torch.zeros(batch)
    if "rotate" in names:
        angle = torch.deg2rad(uniform(batch, -limits.rotation, limits.rotation, generator))
    cos, sin = angle.cos(), angle.sin()
    turn = torch.stack([torch.stack([cos, -sin], dim=1), torch.stack([sin, cos], dim=1)], dim=1)
    if "affine" in names:
        slant = torch.eye(2).repeat(batch, 1, 1)
        slant[:, 0, 1] = torch.deg2rad(uniform(batch, -SHEAR, SHEAR, generator)).tan()
        zoom = torch.exp(uniform(batch, math.log(ZOOM[0]), math.log(ZOOM[1]), generator))
        turn = turn @ slant * zoom[:, None, None]
        shift = shift + 2 * MOVE * torch.stack([uniform(batch, -1, 1, generator) for _ in range(2)], dim=1)
    return torch.cat([turn * scale[:, None, :], shift[:, :, None]], dim=2)


def random_perspective(batch: int, generator: torch.Generator) -> Tensor:
    """(B, 3, 3) projective matrices that move each corner at random; the identity for some of the images."""
    moved = DISTORTION * (2 * torch.rand(batch, 4, 2, generator=generator) - 1)
    chosen = torch.rand(batch, generator=generator) < DISTORTION_CHANCE
    return projective(moved * chosen[:, None, None])


def projective(moved: Tensor) -> Tensor:
    """(B, 3, 3) matrices that take the corners (-1, -1), (1, -1), (1, 1), (-1, 1) to themselves plus `moved` (B, 4, 2).

    The usual eight linear equations of a projective map, two for each corner.
    """
    corners = torch.tensor([[-1.0, -1], [1, -1], [1, 1], [-1, 1]]).expand(len(moved), 4, 2)
    goal = corners + moved
    x, y, one, zero = corners[..., 0], corners[..., 1], torch.ones(len(moved), 4), torch.zeros(len(moved), 4)
    u, v = goal[..., 0], goal[..., 1]
    rows = torch.cat(
        [
            torch.stack([x, y, one, zero, zero, zero, -u * x, -u * y], dim=2),
            torch.stack([zero, zero, zero, x, y, one, -v * x, -v * y], dim=2),
        ],
        dim=1,
    )
    found = torch.linalg.solve(rows, torch.cat([u, v], dim=1))
    return torch.cat([found, torch.ones(len(moved), 1)], dim=1).view(-1, 3, 3)


def resample(images: Tensor, theta: Tensor, side: int | None = None) -> Tensor:
    """`images` (B, C, S, S) seen through `theta` (B, 2, 3), bilinear, mirrored at the border; `side`: of the output."""
    shape = [*images.shape[:2], *(images.shape[2:] if side is None else (side, side))]
    grid = functional.affine_grid(theta, shape, align_corners=False)
    return _sampled(images, grid)


def resample_projective(images: Tensor, matrix: Tensor, side: int) -> Tensor:
    """`images` seen through `matrix` (B, 3, 3), as `resample` does."""
    at = (torch.arange(side, device=images.device, dtype=images.dtype) + 0.5) / side * 2 - 1
    points = torch.stack(
        [at.expand(side, side), at[:, None].expand(side, side), torch.ones_like(at).expand(side, side)]
    )
    seen = matrix @ points.reshape(3, -1)  # (B, 3, side * side)
    grid = (seen[:, :2] / seen[:, 2:]).transpose(1, 2).reshape(len(images), side, side, 2)
    return _sampled(images, grid)


def _sampled(images: Tensor, grid: Tensor) -> Tensor:
    return functional.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
