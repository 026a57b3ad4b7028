"""A coarse look at one image inside another: windows in eight orientations, as frequencies.

A placement (2, 3) maps a point u of the template to the point A u + c of the other image. Windows and templates are
compared by COARSE x COARSE samples, of which KEPT x KEPT frequencies count, weighted so that each matters.
"""

from functools import lru_cache

import numpy as np
from scipy.fft import dct

from tasks.leaks.greys import SIDE, blur_matrix, blurred, grid, sample

COARSE, KEPT = 16, 8
SCALES = (1.0, 0.8, 0.6, 0.5)  # of windows for which an image is blurred apart
AT_ONCE = 1 << 24  # agreements held at a time: 64 MB


def _frames() -> np.ndarray:
    """(F, 2, 3): windows of 50 to 100 % of each side, and small rotations of the whole."""
    found = [(1.0, 0.0, 0.0, angle) for angle in (0, -7, 7, -14, 14)]
    found += [(0.85, 0.0, 0.0, angle) for angle in (-10, 10)]
    for side, places in ((0.9, 3), (0.8, 3), (0.7, 4), (0.6, 4), (0.5, 5)):
        steps = np.linspace(side - 1, 1 - side, places)
        found += [(side, x, y, 0) for x in steps for y in steps]
    frames = []
    for side, x, y, angle in found:
        c, s = side * np.cos(np.radians(angle)), side * np.sin(np.radians(angle))
        frames.append([[c, -s, x], [s, c, y]])
    return np.array(frames, np.float32)


FRAMES = _frames()
QUARTERS = ([[1, 0], [0, 1]], [[0, -1], [1, 0]], [[-1, 0], [0, -1]], [[0, 1], [-1, 0]])
TURNS = np.array([np.array(q) @ mirror for mirror in (np.eye(2), np.diag([-1, 1])) for q in QUARTERS], np.float32)

_WEIGHT = np.hypot(*np.meshgrid(np.arange(KEPT), np.arange(KEPT))).astype(np.float32)


@lru_cache(maxsize=256)
def _upright(side: float, centre: float, scale: float) -> np.ndarray:
    """(KEPT, SIDE): blur, samples and frequencies along one axis of a window that is not rotated, as one product."""
    at = np.clip((side * grid(COARSE)[:COARSE, 0] + centre + 1) * (SIDE / 2) - 0.5, 0, SIDE - 1.001)
    first = at.astype(int)
    samples = np.zeros((COARSE, SIDE))
    samples[np.arange(COARSE), first] = 1 - (at - first)
    samples[np.arange(COARSE), first + 1] = at - first
    frequencies = dct(samples @ blur_matrix(SIDE, 0.5 * SIDE / COARSE * scale), axis=0, norm="ortho")
    return frequencies[:KEPT].astype(np.float32)


def _weighted(square: np.ndarray) -> np.ndarray:
    """(M, KEPT, KEPT) frequencies as (M, KEPT * KEPT), weighted and of length 1."""
    found = square * _WEIGHT
    length = np.sqrt((found**2).sum(axis=(1, 2), keepdims=True))
    return (found / np.maximum(length, 1e-3)).astype(np.float32).reshape(len(found), -1)


def _spectrum(values: np.ndarray) -> np.ndarray:
    """(M, COARSE * COARSE) samples as (M, KEPT * KEPT) weighted frequencies of length 1."""
    square = values.reshape(-1, COARSE, COARSE)
    return _weighted(dct(dct(square, axis=1, norm="ortho")[:, :KEPT], axis=2, norm="ortho")[:, :, :KEPT])


def templates(images: np.ndarray) -> np.ndarray:
    """(N, 8, KEPT * KEPT): each whole image in its eight orientations TURNS."""
    low = blurred(images, 0.5 * SIDE / COARSE)
    rows, points = np.arange(len(images)), grid(COARSE)
    every = (np.broadcast_to(points @ turn.T, (len(images), *points.shape)) for turn in TURNS)
    return np.stack([_spectrum(sample(low, rows, at)[0]) for at in every], axis=1)


def windows(images: np.ndarray) -> np.ndarray:
    """(N, F, KEPT * KEPT): the windows FRAMES of each image."""
    found = np.empty((len(images), len(FRAMES), KEPT * KEPT), np.float32)
    level, rows, points = nearest_scale(FRAMES), np.arange(len(images)), grid(COARSE)
    upright = FRAMES[:, 0, 1] == 0
    for number, scale in enumerate(SCALES):
        below: dict[tuple, np.ndarray] = {}  # (side, y) -> (N, KEPT, SIDE) of all windows at this height
        for frame in np.flatnonzero((level == number) & upright):
            (side, _, x), (_, _, y) = FRAMES[frame].tolist()
            key = side, y
            if key not in below:
                below[key] = np.matmul(_upright(side, y, scale), images)
            found[:, frame] = _weighted(below[key] @ _upright(side, x, scale).T)
        if (level[~upright] != number).all():
            continue
        low = blurred(images, 0.5 * SIDE / COARSE * scale)
        for frame in np.flatnonzero((level == number) & ~upright):
            at = points @ FRAMES[frame, :, :2].T + FRAMES[frame, :, 2]
            found[:, frame] = _spectrum(sample(low, rows, np.broadcast_to(at, (len(images), *at.shape)))[0])
    return found


def nearest_scale(placed: np.ndarray) -> np.ndarray:
    """(M,) index into SCALES of the placements (M, 2, 3)."""
    side = np.sqrt(np.abs(np.linalg.det(placed[:, :, :2])))
    return np.abs(side[:, None] - np.array(SCALES)).argmin(axis=1)


def starts(template: np.ndarray, window: np.ndarray, count: int) -> np.ndarray:
    """The `count` placements (M, count, 2, 3) at which templates (M, 8, K) agree best with windows (M, F, K)."""
    agree = np.matmul(template, np.swapaxes(window, 1, 2)).reshape(len(template), -1)
    best = np.argpartition(-agree, count, axis=1)[:, :count]
    placed = FRAMES[best % len(FRAMES)].copy()
    # the template seen through a turn, t(turn u), agrees with the window b(A u + c): so t(v) with b(A turn' v + c)
    placed[..., :2] = placed[..., :2] @ np.swapaxes(TURNS[best // len(FRAMES)], -1, -2)
    return placed


def agreement(template: np.ndarray, window: np.ndarray) -> np.ndarray:
    """(A, B) float32: how well each of A templates (A, 8, K) agrees with the best window of each of B (B, F, K)."""
    found = np.empty((len(template), len(window)), np.float32)
    turned, wide = template.reshape(-1, template.shape[2]), window.shape[1] * len(TURNS)
    step = max(1, AT_ONCE // max(1, wide * len(template)))
    for start in range(0, len(window), step):
        part = window[start : start + step]
        values = turned @ part.reshape(-1, part.shape[2]).T
        best = values.reshape(len(turned), len(part), -1).max(axis=2)
        found[:, start : start + step] = best.reshape(len(template), len(TURNS), len(part)).max(axis=1)
    return found
