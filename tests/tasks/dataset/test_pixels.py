"""The cache of model inputs is decoded on several cores, in the order of the shard."""

import threading

import numpy as np
import pytest

from tasks.common import cores
from tasks.common.params import ImagesParams
from tasks.dataset import pixels
from tests.support.labelled_project import add_shard, png

IMAGES = ImagesParams(resolution=16)


@pytest.mark.parametrize("threads", [1, 2])
def test_as_many_threads_as_are_asked_for_decode_the_rows_in_order(threads, tmp_path, monkeypatch):
    monkeypatch.setattr(pixels, "AT_ONCE", 2)
    monkeypatch.setattr(cores, "usable_cores", lambda: 4)
    made = [np.full((16, 16, 3), 20 * number, np.uint8) for number in range(8)]
    name = add_shard(tmp_path, [png(image) for image in made], ["cat"] * 8, ["train"] * 8)
    (tmp_path / ".git").mkdir()
    used, together, plain = set(), threading.Barrier(threads, timeout=60), pixels._decoded

    def noted(encoded, images):
        used.add(threading.current_thread())
        together.wait()  # until so many threads are here
        return plain(encoded, images)

    monkeypatch.setattr(pixels, "_decoded", noted)
    np.testing.assert_array_equal(pixels.shard_pixels(tmp_path, name, IMAGES, threads), made)
    assert len(used) == threads
