"""Orientation histograms: features of shape and direction that no pretrained network is needed for.

N images of S x S pixels. Pretrained networks were trained on mirrored images, so their features hardly tell left from
right. These features do (Dalal and Triggs 2005, "Histograms of oriented gradients for human detection").
"""

import numpy as np

CELLS = 8  # per side
BINS = 8  # of the angle, 0 to 180 degrees
CHUNK = 256  # images at a time: 64 x 64 pixels in float32 take 4 MB each array


def orientation_histograms(pixels: np.ndarray) -> np.ndarray:
    """(N, 512) float32 from `pixels` (N, S, S, 3) uint8: the share of edge strength per cell and direction.

    The root of the share, so that a few strong edges do not outweigh the rest. S must be a multiple of 8.
    """
    parts = [_histograms(pixels[start : start + CHUNK]) for start in range(0, len(pixels), CHUNK)]
    return np.concatenate(parts) if parts else np.zeros((0, CELLS * CELLS * BINS), np.float32)


def _histograms(pixels: np.ndarray) -> np.ndarray:
    grey = pixels.astype(np.float32).mean(axis=3)
    across, down = np.gradient(grey, axis=2), np.gradient(grey, axis=1)
    strength = np.hypot(across, down)
    angle = np.mod(np.arctan2(down, across), np.pi) * (BINS / np.pi)
    low = np.floor(angle)
    share = angle - low  # an angle between two bins counts for both
    low = low.astype(int) % BINS
    side = pixels.shape[1] // CELLS
    out = np.empty((len(pixels), CELLS, CELLS, BINS), np.float32)
    for number in range(BINS):
        part = np.where(low == number, 1 - share, 0) + np.where((low + 1) % BINS == number, share, 0)
        out[..., number] = (strength * part).reshape(len(pixels), CELLS, side, CELLS, side).sum(axis=(2, 4))
    flat = out.reshape(len(pixels), -1)
    return np.sqrt(flat / np.maximum(flat.sum(axis=1, keepdims=True), 1e-6))
