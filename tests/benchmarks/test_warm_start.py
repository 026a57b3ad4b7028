"""The benchmark of warm starts: what its figures mean, and that a quick pass runs."""

import pytest

from benchmarks import record, warm_start


def row(start: str, epochs: int, seconds: float, score: float, seed: int = 0) -> dict:
    return {"set": "made", "seed": seed, "start": start, "epochs": epochs, "seconds": seconds, "score": score}


def test_the_ratio_is_that_of_the_cheapest_start_that_reaches_the_score():
    rows = [row("pretrained", 5, 10, 0.8), row("none", 0, 0, 0.7), row("champion", 1, 2, 0.79)]
    rows += [row("champion", 2, 4, 0.81), row("shrink_perturb", 1, 3, 0.8), row("dash", 1, 9, 0.9)]
    found = {figure.name: figure for figure in warm_start.figures(rows)}
    assert found["warm_start_time_ratio"].value == pytest.approx(0.3)
    assert "shrink_perturb, 1 epochs" in found["warm_start_time_ratio"].peer
    assert found["warm_champion_1_epochs_points"].value == pytest.approx(-1.0)
    assert found["champion_untrained_points"].value == pytest.approx(-10.0)
    none = warm_start.figures([one for one in rows if one["start"] in ("pretrained", "none") or one["score"] < 0.8])
    assert none[0].value == 1.0


def test_a_quick_pass_runs_and_records_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(record, "FOLDER", tmp_path / "docs")
    monkeypatch.setattr(warm_start, "METHODS", ("shrink_perturb",))
    monkeypatch.setattr(warm_start, "SHARES", (0.4,))
    warm_start.main([str(tmp_path / "kept"), "--quick"])
    assert "warm_shrink_perturb_1_epochs_time_ratio" in capsys.readouterr().out
    assert not (tmp_path / "docs").exists()
    assert len(list((tmp_path / "kept").glob("fashion-0-*.json"))) == 1
