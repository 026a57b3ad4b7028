"""Features of frozen networks under ONNX Runtime: torch's values, batches of any size, no torch once exported."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from tasks.backbones import frozen, timm_models

SIZE, BATCH = 32, 4
HALVES = (0.5, 0.5, 0.5)


def make(name: str = "tf_efficientnet_lite0"):
    torch.manual_seed(0)
    return timm_models.create_model(name, "auto" if name == timm_models.OFFLINE_BACKBONE else "none", 0, SIZE)


def network(export_file=None, made=make):
    return frozen.frozen_network(made, HALVES, HALVES, size=SIZE, batch_size=BATCH, export_file=export_file)


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (BATCH, SIZE, SIZE, 3), np.uint8)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    file = tmp_path_factory.mktemp("networks") / "lite0.onnx"
    return file, network(file)


def largest_difference(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def test_features_are_torchs(exported, pixels):
    _, found = exported
    assert isinstance(found, frozen.OnnxFeatures)
    expected = frozen.TorchFeatures(make(), HALVES, HALVES)(pixels)
    assert found(pixels).shape == expected.shape == (BATCH, 1280)
    assert largest_difference(found(pixels), expected) < 1e-4


def test_the_last_batch_may_be_short_and_changes_nothing(exported, pixels):
    _, found = exported
    np.testing.assert_array_equal(found(pixels[:1]), found(pixels)[:1])
    assert found(pixels[:0]).shape == (0, 1280)


def test_an_exported_network_needs_neither_torch_nor_the_model(exported, pixels, tmp_path):
    file, first = exported
    np.save(tmp_path / "pixels.npy", pixels)
    code = f"""
import sys
from pathlib import Path
import numpy as np
from tasks.backbones import frozen
def never():
    raise AssertionError("the model was made")
found = frozen.frozen_network(never, {HALVES}, {HALVES}, size={SIZE}, batch_size={BATCH}, export_file=Path(sys.argv[1]))
np.save(sys.argv[3], found(np.load(sys.argv[2])))
if heavy := {{"torch", "timm"}} & set(sys.modules):
    sys.exit(f"imported {{heavy}}")
"""
    arguments = [file, tmp_path / "pixels.npy", tmp_path / "features.npy"]
    ended = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    np.testing.assert_array_equal(np.load(tmp_path / "features.npy"), first(pixels))


def test_the_export_is_read_although_the_machine_has_a_device_that_torch_cannot_use(exported, pixels, monkeypatch):
    file, first = exported
    monkeypatch.setattr(frozen, "ACCELERATORS", ("/dev/null",))

    def never():
        raise AssertionError("the model was made")

    np.testing.assert_array_equal(network(file, never)(pixels), first(pixels))


def test_a_torn_file_is_exported_again(exported, pixels, tmp_path):
    file, first = exported
    torn = tmp_path / "torn.onnx"
    torn.write_bytes(file.read_bytes()[:-5000])
    np.testing.assert_array_equal(network(torn)(pixels), first(pixels))
    assert torn.read_bytes() == file.read_bytes()


class Untraceable(torch.nn.Module):
    """A network whose features depend on the batch, which tracing would freeze."""

    def forward_features(self, x):
        return torch.nn.functional.adaptive_avg_pool2d(x, 4)

    def forward_head(self, x, pre_logits):
        scale = 2.0 if torch.jit.is_tracing() else 1.0
        return x.flatten(1) * scale


def test_a_network_that_the_export_would_change_runs_under_torch(pixels, tmp_path):
    found = network(tmp_path / "x.onnx", Untraceable)
    assert isinstance(found, frozen.TorchFeatures)
    assert list(tmp_path.iterdir()) == []
    mean = pixels.reshape(BATCH, 4, 8, 4, 8, 3).mean(axis=(2, 4)).transpose(0, 3, 1, 2).reshape(BATCH, -1)
    np.testing.assert_allclose(found(pixels), mean / 127.5 - 1, atol=1e-5)


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224", "convnext_atto"])
def test_other_families_give_torchs_features(name, pixels):
    found = network(made=lambda: make(name))
    expected = frozen.TorchFeatures(make(name), HALVES, HALVES)(pixels)
    assert isinstance(found, frozen.OnnxFeatures)
    assert largest_difference(found(pixels), expected) < 1e-3
