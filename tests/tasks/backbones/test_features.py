"""Feature cache and stage `embed`: each shard is computed once, and a warm call imports nothing heavy."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from tasks.backbones import features
from tasks.common.errors import StageInputError
from tasks.common.files import read_json, sha256_file
from tasks.common.params import ImagesParams
from tasks.stages import embed
from tests.support.checkout import ROOT
from tests.support.labelled_project import add_shard, noise_images, params

IMAGES = ImagesParams(resolution=16)


class MeanColour:
    """A fake network that returns the mean colour, (B, 3), and counts its builds and images."""

    def __init__(self):
        self.builds, self.images = 0, 0

    def build(self):
        self.builds += 1
        return self

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        self.images += len(pixels)
        return pixels.mean(axis=(1, 2)).astype(np.float32)


@pytest.fixture
def root(tmp_path) -> Path:
    add_shard(tmp_path, noise_images(5, seed=1), ["a"] * 5, ["train"] * 5)
    add_shard(tmp_path, noise_images(7, seed=2), ["b"] * 7, ["test"] * 7)
    return tmp_path


def table(root: Path, network: MeanColour, key: str = "mean-colour"):
    samples = pq.read_table(root / "artifacts/validate/accepted.parquet")
    return features.feature_table(root, samples, IMAGES, key, network.build, batch_size=2)


def test_rows_are_the_networks_output_for_their_own_image(root):
    found = table(root, MeanColour())
    assert found.shape == (12, 3)
    assert found.dtype == np.float16
    images = noise_images(5, seed=1) + noise_images(7, seed=2)
    from tasks.dataset.decode import preprocess

    wanted = [preprocess(data, 16, "squash", 10**6).mean(axis=(0, 1)) for data in images]
    np.testing.assert_allclose(found[:], wanted, rtol=1e-3)


def test_a_new_shard_costs_its_own_images_and_a_warm_call_nothing(root):
    network = MeanColour()
    table(root, network)
    assert (network.builds, network.images) == (1, 12)
    add_shard(root, noise_images(3, seed=3), ["a"] * 3, ["train"] * 3)
    assert len(table(root, network)) == 15
    assert (network.builds, network.images) == (2, 15)
    table(root, network)
    assert (network.builds, network.images) == (2, 15)


def test_another_network_or_input_size_never_reads_the_same_entry(root):
    folders = {
        features.feature_folder(root, images, key)
        for images in (IMAGES, ImagesParams(resolution=32), ImagesParams(resolution=16, fit="pad"))
        for key in ("one", "two")
    }
    assert len(folders) == 6


def test_a_torn_entry_is_computed_again(root):
    whole = table(root, MeanColour())[:]
    folder = features.feature_folder(root, IMAGES, "mean-colour")
    for number, file in enumerate(sorted(folder.glob("*.npy"))):
        file.write_bytes(file.read_bytes()[: (100, 140)[number]])  # inside the header; inside the values
    network = MeanColour()
    np.testing.assert_array_equal(table(root, network)[:], whole)
    assert network.images == 12


def test_values_beyond_float16_are_clipped_but_nan_stays_visible(root):
    def network(pixels):
        return np.tile(np.array([[1e6, -1e6, np.nan]], np.float32), (len(pixels), 1))

    samples = pq.read_table(root / "artifacts/validate/accepted.parquet")
    found = features.feature_table(root, samples, IMAGES, "odd", lambda: network, 4)[:]
    assert found[0, 0] == 65504
    assert found[0, 1] == -65504
    assert np.isnan(found[0, 2])


def test_embed_indexes_every_shard_with_its_digest_and_is_repeatable(root):
    everything = params(root, resolution="32")
    embed.run(root, embed=everything.embed, images=everything.images)
    index = root / "artifacts/embed/index.json"
    about, first = read_json(index), index.read_bytes()
    assert (about["backbone"], about["dim"], about["dtype"]) == ("tf_efficientnet_lite0", 1280, "float16")
    assert sorted(entry["rows"] for entry in about["shards"].values()) == [5, 7]
    for entry in about["shards"].values():
        assert sha256_file(root / ".evergreen/cache" / entry["file"]) == entry["sha256"]
    assert read_json(root / "metrics/embed.json") == {"rows": 12, "shards": 2, "dim": 1280}

    code = (
        "import sys; from pathlib import Path; from tasks.stages.runner import run_stage;"
        "run_stage('embed', Path(sys.argv[1])); heavy = {'torch', 'timm', 'scipy', 'sklearn'} & set(sys.modules);"
        "sys.exit(f'a warm call imported {heavy}' if heavy else 0)"
    )
    warm = subprocess.run([sys.executable, "-c", code, str(root)], cwd=ROOT, capture_output=True, text=True)
    assert warm.returncode == 0, warm.stderr
    assert "0 of 2 shards new" in warm.stdout
    assert index.read_bytes() == first

    for file in (root / ".evergreen/cache/features").rglob("*.npy"):  # a deleted cache is rebuilt with the same content
        os.unlink(file)
    embed.run(root, embed=everything.embed, images=everything.images)
    assert index.read_bytes() == first


def test_embed_without_its_input_names_the_missing_stage(tmp_path):
    everything = params(tmp_path)
    with pytest.raises(StageInputError, match="run the stage inspect first"):
        embed.run(tmp_path, embed=everything.embed, images=everything.images)
