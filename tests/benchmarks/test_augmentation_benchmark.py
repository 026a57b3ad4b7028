"""The benchmark of augmentation compares each arm with the default of its set and seed, and a quick pass runs."""

import numpy as np
import pytest

from benchmarks import augmentation, augmentation_figures, record


def one(arm: str, seed: int, score: float, ece: float, seconds: float = 2.0) -> dict:
    measured = {"balanced_accuracy": score, "ece": ece, "ece_scaled": 1.0, "seconds": seconds}
    return {"set": "made", "arm": arm, "seed": seed} | measured


def test_figures_are_differences_to_the_default_of_the_same_seed():
    results = [
        one("default", 0, 80, 5),
        one("default", 1, 90, 3),
        one("mixup", 0, 82, 4),
        one("mixup", 1, 91, 5),
        one("resolution_schedule", 0, 80, 5, 1.0),
        one("resolution_schedule", 1, 90, 3, 1.0),
    ]
    found = {figure.name: figure for figure in augmentation_figures.figures_of(results)}
    assert found["augment_mixup_points"].value == pytest.approx(1.5)
    assert found["claim_mixup_ece_points"].value == pytest.approx(0.5)
    assert not found["claim_mixup_ece_points"].met
    assert found["claim_mixup_ece_points"].spread == "made +0.5 (-1.0 to +2.0)"
    assert found["claim_mixup_ece_after_scaling_points"].value == 0
    assert found["resolution_schedule_time_ratio"].value == pytest.approx(0.5)


def test_scaling_mends_what_is_too_sure_of_itself():
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 3, 2000)
    logits = 8.0 * (np.eye(3)[np.where(rng.random(2000) < 0.8, targets, rng.integers(0, 3, 2000))])
    split = {"calibration": slice(0, 1000), "test": slice(1000, 2000)}
    found = augmentation.scores(
        {name: logits[rows] for name, rows in split.items()}, {name: targets[rows] for name, rows in split.items()}
    )
    assert found["temperature"] > 1.5
    assert found["ece"] > 10 > 3 > found["ece_scaled"]
    assert found["log_loss"] > found["log_loss_scaled"]


def test_every_arm_is_a_valid_setting_of_its_own():
    settings = [augmentation.Job("made", arm, 0).params for arm in augmentation.ARMS]
    assert all(one != other for number, one in enumerate(settings) for other in settings[:number])


def test_a_quick_pass_is_kept_until_the_training_changes(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(record, "FOLDER", tmp_path / "figures")
    augmentation.main([str(tmp_path / "kept"), "--quick"])
    assert "claim_mixup_ece_points" in capsys.readouterr().out
    assert not (tmp_path / "figures").exists()
    monkeypatch.setattr(augmentation, "train", lambda job, how: pytest.fail("trained again"))
    augmentation.main([str(tmp_path / "kept"), "--quick"])
