"""The benchmark of distillation compares each arm with labels alone, and a quick pass runs."""

import pytest

from benchmarks import distillation, record


def test_figures_are_differences_to_labels_alone():
    one = {"seed": 0, "teacher": 90.0, "alone": 70.0, "answers": 75.0, "answers_features": 74.0}
    one |= {"answers_attention": 69.0, "alone_seconds": 2.0, "answers_seconds": 3.0}
    found = {figure.name: figure.value for figure in distillation.figures([one])}
    assert found["claim_distillation_points"] == pytest.approx(5)
    assert found["claim_distillation_features_points"] == pytest.approx(4)
    assert found["claim_distillation_attention_points"] == pytest.approx(-1)
    assert found["claim_distillation_loss_points"] == pytest.approx(15)
    assert found["training_time_ratio"] == pytest.approx(1.5)


def test_a_quick_pass_runs_and_goes_on_where_it_was(tmp_path, monkeypatch):
    monkeypatch.setattr(record, "FOLDER", tmp_path / "figures")
    (found,) = distillation.main([str(tmp_path), "--quick"])
    assert found.keys() >= {"teacher", *distillation.ARMS}
    monkeypatch.setattr(distillation, "measure", lambda *_: pytest.fail("measured again"))
    assert distillation.main([str(tmp_path), "--quick"]) == [found]
    assert not (tmp_path / "figures").exists()
