"""The benchmark of the long tail draws the sets it says, reads weights from a file, and a quick pass runs."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from benchmarks import long_tail, long_tail_figures, long_tail_sets, record
from tasks.backbones import timm_models


def test_a_made_long_tail_falls_exponentially_and_no_image_is_in_two_parts():
    counts = long_tail_sets.tail_counts(1000, 10)
    assert (counts[0], counts[-1]) == (1000, 10)
    assert np.diff(np.log(counts)) == pytest.approx(np.log(0.01) / 9, abs=0.1)
    targets = np.repeat(np.arange(3), 50)
    rows = long_tail_sets.drawn(targets, np.array([30, 10, 2]), np.random.default_rng(0))
    assert [np.bincount(targets[rows[split]]).tolist() for split in rows] == [[30, 10, 2], [6, 2, 2], [14, 38, 46]]
    assert sorted(np.concatenate(list(rows.values()))) == list(range(150))


def test_weights_of_a_file_are_those_of_the_package(tmp_path):
    state = {name: value.contiguous() for name, value in timm_models.packaged_weights().items()}
    save_file(state, tmp_path / "weights.safetensors")
    job = long_tail.Job("fashion", "cross_entropy", 0)
    found = [long_tail.network(3, job, file).state_dict() for file in (None, tmp_path / "weights.safetensors")]
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0] if "classifier" not in name)


def test_the_small_resnet_keeps_the_resolution_of_small_images():
    network = long_tail.network(10, long_tail.Job("cifar_5000", "focal", 0, scratch=3), None)
    assert network.forward_features(torch.zeros(1, 3, 32, 32)).shape == (1, 512, 4, 4)
    assert long_tail.Job("cifar_5000", "focal", 0, scratch=3).params.loss == "focal"


def one(arm: str, seed: int, recall: list[float]) -> dict:
    return {"set": "made", "arm": arm, "seed": seed, "counts": [200, 70, 10], "recall": recall} | {
        "post_hoc": [0.5] * 3,
        "seconds": 1.0,
        "device": "cpu",
    }


def test_gains_are_over_cross_entropy_of_the_same_seed():
    results = [
        one("cross_entropy", 0, [0.9, 0.6, 0.0]),
        one("cross_entropy", 1, [0.9, 0.6, 0.3]),
        one("focal", 0, [0.8, 0.6, 0.4]),
        one("focal", 1, [0.8, 0.6, 0.5]),
    ]
    found = {figure.name: figure for figure in long_tail_figures.figures_of(results)}
    focal = found["long_tail_made_focal"]
    assert focal.value == pytest.approx(100 * (0.6 + 1.9 / 3) / 2)
    assert "all +6.7, many -10.0, medium +0.0, few +30.0 (all: each seed +10.0, +3.3)" in focal.peer
    assert found["claim_focal_few_shot_points"].value == pytest.approx(30)
    assert found["long_tail_made_post_hoc"].value == pytest.approx(50)


def test_a_quick_pass_is_kept_until_the_training_changes(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(record, "FOLDER", tmp_path / "figures")
    long_tail.main([str(tmp_path / "kept"), "--quick"])
    assert "long_tail_fashion_ldam_drw" in capsys.readouterr().out
    assert not (tmp_path / "figures").exists()
    monkeypatch.setattr(long_tail, "train", lambda job, how: pytest.fail("trained again"))
    long_tail.main([str(tmp_path / "kept"), "--quick"])
    long_tail.main([str(tmp_path / "kept"), "--quick", "--figures-only"])
    assert capsys.readouterr().out.count("long_tail_fashion_ldam_drw") == 2
