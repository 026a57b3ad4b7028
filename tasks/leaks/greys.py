"""Grey images without the fill of borders and turned corners, and samples of them at any points.

N is the number of images, SIDE the side they are compared at, M a number of comparisons. Points are (x, y) in -1..1.
"""

from functools import lru_cache

import numpy as np
from scipy import ndimage

SIDE = 64
FLAT = 3.0  # of 255: fill varies less
DARK, LIGHT, MIDDLE = 10.0, 245.0, 128.0  # fill is black, white, or the middle grey of images.fit: pad
MOST_FILL = 0.9  # an image with more would be all fill: it keeps its pixels


def grey(pixels: np.ndarray) -> np.ndarray:
    """(N, S, S, 3) uint8 as (N, SIDE, SIDE) float32 luma."""
    luma = pixels.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    s = luma.shape[1]
    if s == SIDE:
        return luma
    if s % SIDE == 0:
        return luma.reshape(len(luma), SIDE, s // SIDE, SIDE, s // SIDE).mean(axis=(2, 4))
    smooth = blurred(luma, 0.4 * s / SIDE) if s > SIDE else luma
    return ndimage.zoom(smooth, (1, SIDE / s, SIDE / s), order=1, grid_mode=True, mode="nearest")


def blurred(images: np.ndarray, sigma: float) -> np.ndarray:
    """Each of the images (N, H, W) under a Gaussian of `sigma` pixels, float32."""
    images = np.asarray(images, np.float32)
    down, across = (blur_matrix(side, float(sigma)) for side in images.shape[1:])
    return np.matmul(down, (images.reshape(-1, images.shape[2]) @ across.T).reshape(images.shape))


def shown(images: np.ndarray) -> np.ndarray:
    """(N, SIDE, SIDE) bool: all but the flat fill that a border or a turned image leaves at the edge."""
    found = np.ones(images.shape, bool)
    plain = (images <= DARK) | (images >= LIGHT) | (np.abs(images - MIDDLE) <= FLAT)
    spread = ndimage.maximum_filter(images, (1, 3, 3)) - ndimage.minimum_filter(images, (1, 3, 3))
    plain &= spread <= 3 * FLAT
    cornered = plain[:, 1 :: SIDE - 3, 1 :: SIDE - 3].any(axis=(1, 2))
    for number in np.flatnonzero(cornered):
        pieces, _ = ndimage.label(plain[number])
        edge = np.unique(np.concatenate([pieces[0], pieces[-1], pieces[:, 0], pieces[:, -1]]))
        fill = np.isin(pieces, edge[edge > 0])
        if fill.mean() <= MOST_FILL:
            found[number] = ~ndimage.binary_dilation(fill, np.ones((3, 3)))
    return found


def without_fill(images: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """`images` with what is not `seen` continued smoothly from what is: the fill's edge would outweigh all else."""
    found = images * seen
    for row in np.flatnonzero(~seen.all(axis=(1, 2))):
        done, value = seen[row].astype(np.float32), found[row]
        for sigma in (2, 8, 32):
            blur = blur_matrix(SIDE, float(sigma), "constant", 4)
            weight = blur @ done @ blur.T
            smooth = blur @ (value * done) @ blur.T / np.maximum(weight, 1e-6)
            new = (done == 0) & (weight > 0.02)
            value, done = np.where(new, smooth, value), np.where(new, 1, done).astype(np.float32)
        found[row] = value
    return found


@lru_cache(maxsize=64)
def blur_matrix(side: int, sigma: float, mode: str = "nearest", truncate: float = 3) -> np.ndarray:
    """(side, side) float32: the Gaussian of `sigma` along one axis, as a product: far faster than a filter."""
    return ndimage.gaussian_filter1d(np.eye(side), sigma, axis=0, mode=mode, truncate=truncate).astype(np.float32)


def grid(n: int) -> np.ndarray:
    """(n * n, 2) centres of n x n cells, row by row."""
    at = (2 * np.arange(n, dtype=np.float32) + 1) / n - 1
    return np.stack(np.meshgrid(at, at), axis=-1).reshape(-1, 2)


def sample(images: np.ndarray, rows: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Images rows (M,) of `images` (N, SIDE, SIDE) at points (M, P, 2): values (M, P), inside (M, P) bool."""
    x, y = ((points[..., axis] + 1) * np.float32(SIDE / 2) - np.float32(0.5) for axis in (0, 1))
    inside = (x > -0.75) & (x < SIDE - 0.25) & (y > -0.75) & (y < SIDE - 0.25)
    x, y = (np.clip(value, 0, np.float32(SIDE - 1.001)) for value in (x, y))
    left, above = x.astype(np.intp), y.astype(np.intp)
    x -= left
    y -= above
    flat = images.reshape(-1)
    first = rows[:, None].astype(np.intp) * (SIDE * SIDE) + above * SIDE + left
    top, low = (
        (right - value) * x + value
        for value, right in ((flat.take(first + down), flat.take(first + down + 1)) for down in (0, SIDE))
    )
    return (low - top) * y + top, inside
