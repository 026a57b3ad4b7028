"""Orientation histograms tell shapes and directions apart."""

import numpy as np

from flows.project.trials.orientations import orientation_histograms


def stripes(angle: float, side: int = 32) -> np.ndarray:
    """(1, side, side, 3) uint8: edges whose brightness changes in the direction `angle` (radians)."""
    down, across = np.mgrid[:side, :side]
    values = 127 + 100 * np.sin((across * np.cos(angle) + down * np.sin(angle)) / 2)
    return np.repeat(values[None, :, :, None], 3, axis=3).astype(np.uint8)


def test_the_strongest_bin_is_the_direction_of_the_edges():
    for number in range(8):
        found = orientation_histograms(stripes(number * np.pi / 8)).reshape(8, 8, 8).sum(axis=(0, 1))
        assert found.argmax() == number


def test_squares_of_one_image_add_up_to_one_whatever_its_contrast():
    bright = stripes(0.3)
    dim = (bright // 4).astype(np.uint8)
    for pixels in (bright, dim):
        np.testing.assert_allclose((orientation_histograms(pixels) ** 2).sum(axis=1), 1, rtol=1e-5)


def test_a_mirrored_slope_differs_and_a_blank_image_has_no_edges():
    slope = stripes(np.pi / 4)
    assert np.abs(orientation_histograms(slope) - orientation_histograms(slope[:, :, ::-1])).max() > 0.05
    assert orientation_histograms(np.full((2, 16, 16, 3), 9, np.uint8)).shape == (2, 512)
    assert not orientation_histograms(np.full((2, 16, 16, 3), 9, np.uint8)).any()
    assert orientation_histograms(np.zeros((0, 16, 16, 3), np.uint8)).shape == (0, 512)
