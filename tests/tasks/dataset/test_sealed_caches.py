"""A flipped byte in a cache, or in its seal, is found: the entry is thrown away and made again, and a line says so."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from tasks.backbones import features
from tasks.common.params import ImagesParams, InspectParams
from tasks.common.sealed import drop, is_damaged, open_sealed, read_sealed, seal_of, sealed_path
from tasks.dataset.pixels import shard_pixels
from tasks.inspection.measures import shard_measures
from tests.support.flips import flip, places, truncate
from tests.support.labelled_project import add_shard, png

IMAGES = ImagesParams(resolution=16)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    root = tmp_path_factory.mktemp("sealed")
    rng = np.random.default_rng(0)
    images = [png(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)) for _ in range(4)]
    name = add_shard(root, images, ["cat", "dog"] * 2, ["train"] * 4)
    (root / ".git").mkdir()
    return root, name


def mean_colour(pixels: np.ndarray) -> np.ndarray:
    return pixels.mean(axis=(1, 2)).astype(np.float32)


def feature_rows(root, name):
    samples = pq.read_table(root / "artifacts/validate/accepted.parquet")
    return features.feature_table(root, samples, IMAGES, "mean", lambda: mean_colour, 4)[:]


def pixel_rows(root, name):
    return np.array(shard_pixels(root, name, IMAGES))


def measured_rows(root, name):
    table = shard_measures(root, name, IMAGES, InspectParams(workers=1))
    return np.array(table.drop_columns(["thumbnail"]).to_pandas().to_numpy().tolist(), object)


CACHES = {"pixels": pixel_rows, "features": feature_rows, "inspect": measured_rows}


@pytest.mark.parametrize("cache", CACHES)
def test_a_damaged_entry_is_made_again(project, cache, caplog):
    root, name = project
    make = CACHES[cache]
    whole = make(root, name)
    folder = root / ".evergreen/cache" / cache
    (entry,) = [file for file in folder.rglob("*") if file.suffix in (".npy", ".parquet")]
    for file in (entry, entry.with_suffix(".sha256")):
        for at in places(file, 4):
            caplog.clear()
            flip(file, at)
            np.testing.assert_array_equal(make(root, name), whole)
            harmless = file != entry and at == file.stat().st_size - 1  # the end of the line
            assert harmless or f"{entry} was damaged: it is thrown away and made again" in caplog.text
    truncate(entry, entry.stat().st_size - 1)
    np.testing.assert_array_equal(make(root, name), whole)
    entry.with_suffix(".sha256").unlink()  # as a killed writer leaves it
    np.testing.assert_array_equal(make(root, name), whole)
    assert not is_damaged(entry)


def test_an_entry_is_read_only_with_its_seal(tmp_path):
    entry = tmp_path / "entry.json"
    assert read_sealed(entry) is None
    with sealed_path(entry) as temporary:
        temporary.write_bytes(b"content")
    assert read_sealed(entry) == b"content"
    assert len(seal_of(entry)) == 64
    flip(entry, 3)
    assert is_damaged(entry)
    assert open_sealed(entry) is None
    assert not list(tmp_path.iterdir())
    drop(entry)
