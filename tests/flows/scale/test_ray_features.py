"""Features from a Ray cluster: the entries that train_head and calibrate would make."""

import shutil

import pytest

from flows.scale.fill import fill_entries
from tasks.common.artifacts import network_weights, training_rows
from tasks.common.params import load_params
from tasks.common.paths import cache_dir
from tasks.models import stage1
from tests.support.ray_cluster import ray_cluster  # noqa: F401
from tests.support.small_project import copy


@pytest.mark.parametrize("stage", ["train_head", "calibrate"])
def test_the_stage_reads_the_entries_that_it_would_have_made(ray_cluster, tmp_path, monkeypatch, stage):  # noqa: F811
    root = copy(tmp_path / "project")  # it has the features that the stage computed here
    if stage == "calibrate":  # the head stands on a network of its own
        weights = root / "artifacts/train_backbone/weights.safetensors"
        shutil.move(weights, root / "artifacts/train_head/weights.safetensors")
        weights.write_bytes(b"of another network")
    text, unset = (root / "params.yaml").read_text(), "  engine: local\n  address: null\n"
    (root / "params.yaml").write_text(text.replace(unset, f"  engine: ray\n  address: {ray_cluster.address}\n"))
    expected = {file.name: file.read_bytes() for file in cache_dir("features", root).rglob("*.npy")}
    assert len(expected) == 1
    shutil.rmtree(cache_dir("features", root))
    assert fill_entries(stage, root, lambda line: None) == 1
    assert {file.name: file.read_bytes() for file in cache_dir("features", root).rglob("*.npy")} == expected
    assert fill_entries(stage, root, lambda line: None) == 0

    def never(*_):
        raise AssertionError("the stage computes features itself")

    monkeypatch.setattr(stage1, "load", never)
    rows, images = training_rows(root), load_params(root / "params.yaml").images
    for split in ("train", "calibration"):
        assert len(stage1.stage1_features(root, rows[split], images, weights=network_weights(root))) == len(rows[split])
