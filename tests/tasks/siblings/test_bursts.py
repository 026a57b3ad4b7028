"""Bursts by EXIF camera and time."""

import io
from datetime import datetime, timedelta

import numpy as np
import pytest
from PIL import Image

from tasks.siblings.bursts import burst_keys, camera_and_time, propose_bursts

NOON = datetime(2024, 5, 3, 12)


def opened(
    camera: str | None = "X100", at: str | None = "2024:05:03 12:00:07", changed: str | None = None
) -> Image.Image:
    """A JPEG with these EXIF values, as a camera writes them."""
    image, exif, buffer = Image.new("L", (8, 8)), Image.Exif(), io.BytesIO()
    if camera is not None:
        exif[0x0110] = camera
    if changed:
        exif[0x0132] = changed
    if at is not None:
        exif.get_ifd(0x8769)[0x9003] = at
    image.save(buffer, "JPEG", exif=exif)
    return Image.open(io.BytesIO(buffer.getvalue()))


def test_camera_and_time_are_read_and_nonsense_is_nothing():
    assert camera_and_time(opened()) == ("X100", NOON + timedelta(seconds=7))
    assert camera_and_time(opened(None, None, "2024:05:03 12:00:00")) == ("", NOON)
    assert camera_and_time(opened(at="0000:00:00 00:00:00")) is None
    assert camera_and_time(opened(at="yesterday")) is None
    assert camera_and_time(Image.new("L", (8, 8))) is None


def test_a_burst_ends_with_a_pause_or_another_camera():
    seconds = [0, 4, 8, 20, 21, 0]
    taken = [("a", NOON + timedelta(seconds=s)) for s in seconds[:5]] + [("b", NOON)]
    keys = burst_keys([*taken, None])
    assert [keys.tolist().index(key) for key in keys] == [0, 0, 0, 3, 3, 5, 6]
    assert keys[6] == ""
    assert burst_keys([]).shape == (0,)


@pytest.mark.parametrize("alike", [True, False])
def test_bursts_count_only_if_their_images_are_alike(alike):
    rng = np.random.default_rng(0)
    burst = np.repeat(np.arange(40), 4)
    taken = [("a", NOON + timedelta(minutes=int(b), seconds=n % 4)) for n, b in enumerate(burst)]
    x = rng.normal(size=(40, 16))[burst if alike else rng.permutation(burst)] + 0.3 * rng.normal(size=(160, 16))
    found = propose_bursts(taken, ["a", "b"] * 80, x)
    if alike:
        assert (found.siblings, found.groups) == (160, 40)
        assert "160 of 160 images were taken within 5 seconds of another by the same camera" in found.sentence()
    else:
        assert found is None
