"""What a kill or a full disk leaves of a file that can be computed again: any beginning of it."""

import numpy as np
import pytest
import torch

from tasks.common.params import ImagesParams, InspectParams
from tasks.dataset.pixels import shard_pixels
from tasks.inspection.measures import shard_measures
from tasks.stages.train_backbone import checkpoint
from tests.faults.tier import sample
from tests.support.labelled_project import add_shard, noise_images
from tests.tasks.backbones import test_features

SHARES = sample((0.0, 0.01, 0.5, 0.999), tuple(np.linspace(0, 0.999, 40)))


def measures(root, name):
    return shard_measures(root, name, ImagesParams(), InspectParams(workers=1)).to_pylist()


def pixels(root, name):
    return np.array(shard_pixels(root, name, test_features.IMAGES, threads=1)).tolist()


def features(root, name):
    return test_features.table(root, test_features.MeanColour())[:].tolist()


CACHES = {"inspect": measures, "pixels": pixels, "features": features}


@pytest.mark.parametrize("kind", CACHES)
def test_a_cache_entry_cut_anywhere_is_computed_again(tmp_path, kind):
    name = add_shard(tmp_path, noise_images(5, seed=1), ["a"] * 5, ["train"] * 5)
    read = CACHES[kind]
    whole = read(tmp_path, name)
    files = [file for file in (tmp_path / ".evergreen/cache" / kind).rglob("*") if file.is_file()]
    assert files
    for share in SHARES:
        for file in files:
            content = file.read_bytes()
            file.unlink()
            file.write_bytes(content[: int(len(content) * share)])
        assert read(tmp_path, name) == whole


def test_a_checkpoint_cut_anywhere_is_none(tmp_path):
    file, state = tmp_path / "checkpoint.safetensors", {"a": torch.arange(60.0)}
    checkpoint.save(file, checkpoint.Checkpoint([{"epoch": 1}], state, state, {"0/step": torch.tensor(3.0)}))
    content = file.read_bytes()
    for length in range(0, len(content), sample(17, 1)):
        file.write_bytes(content[:length])
        assert checkpoint.load(file) is None, f"the first {length} of {len(content)} bytes"
