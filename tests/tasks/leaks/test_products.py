"""Blur and upright windows as matrix products: the same as filtering and sampling."""

import numpy as np
import pytest
from scipy import ndimage

from tasks.leaks import windows
from tasks.leaks.greys import SIDE, blurred, grid, sample

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(("shape", "sigma"), [((3, SIDE, SIDE), 2.0), ((2, 96, 80), 0.6)])
def test_a_blur_is_a_gaussian_filter(shape, sigma):
    images = RNG.uniform(0, 255, shape).astype(np.float32)
    expected = ndimage.gaussian_filter(images, (0, sigma, sigma), mode="nearest", truncate=3)
    np.testing.assert_allclose(blurred(images, sigma), expected, atol=1e-3)


def test_upright_windows_are_those_of_samples():
    images = blurred(RNG.uniform(0, 255, (3, SIDE, SIDE)), 1.5)
    found, level = windows.windows(images), windows.nearest_scale(windows.FRAMES)
    rows, points = np.arange(3), grid(windows.COARSE)
    for frame, placed in enumerate(windows.FRAMES):
        low = blurred(images, 0.5 * SIDE / windows.COARSE * windows.SCALES[level[frame]])
        at = np.broadcast_to(points @ placed[:, :2].T + placed[:, 2], (3, *points.shape))
        np.testing.assert_allclose(found[:, frame], windows._spectrum(sample(low, rows, at)[0]), atol=1e-4)
