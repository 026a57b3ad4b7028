"""The benchmark of the gate simulates what it says, and goes on where it was."""

import numpy as np
import pytest

from benchmarks import gate, record
from benchmarks.gate_populations import HARD, draw, simulated, simulated_labels

SETTINGS = {"images": 4_000, "noise": 0.7}


@pytest.fixture(scope="module")
def alike():
    return simulated(name="alike", classes=4, **SETTINGS)


def test_models_are_equal_or_as_much_better_as_said(alike):
    for gain in (0.0, 0.03):
        pairs = [draw(alike, 1_000, gain, seed) for seed in range(20)]
        found = np.mean([pair.new.mean() - pair.old.mean() for pair in pairs])
        assert found == pytest.approx(gain, abs=0.008)
        assert 0.02 < np.mean([(pair.new != pair.old).mean() for pair in pairs]) < 0.2


def test_evidence_is_what_the_gate_asks_for(alike):
    pair = draw(alike, 200, 0.0, 0)
    table = pair.challenger.predictions
    assert table["split"].to_pylist() == ["test"] * 200 + ["hard"] * HARD
    assert len(set(table["source"].to_pylist())) > 3
    shared = draw(simulated(name="shared", classes=4, shared=0.8, **SETTINGS), 1_000, 0.0, 0)
    assert (shared.new != shared.old).mean() < (draw(alike, 1_000, 0.0, 0).new != draw(alike, 1_000, 0.0, 0).old).mean()
    groups = draw(simulated(name="shots", classes=4, grouped=5, **SETTINGS), 200, 0.0, 0)
    assert len(set(groups.challenger.predictions["group"].to_pylist()[:200])) == 40
    tail = simulated(name="tail", classes=8, tail=50, **SETTINGS)
    assert np.ptp(np.log(np.bincount(tail.targets))) > 3
    labels = draw(simulated_labels(name="labels", **SETTINGS), 200, 0.0, 0)
    assert set(labels.challenger.metrics["thresholds"].values()) == {0.5}


def test_a_quick_pass_records_nothing_and_a_second_one_only_reads(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(record, "FOLDER", tmp_path / "figures")
    gate.main([str(tmp_path / "kept"), "--only", "simulated", "--quick"])
    assert "equal_candidates_promoted" in capsys.readouterr().out
    assert not (tmp_path / "figures").exists()
    monkeypatch.setattr(gate, "trial", None)
    gate.main([str(tmp_path / "kept"), "--only", "simulated", "--quick"])
    assert "better_promoted_gap" in capsys.readouterr().out


def test_figures_count_promotions_and_the_gap_to_mcnemar():
    def trials(promoted, plain, n=100):
        return [
            {"outcome": "promote" if k < promoted else "hold", "shown": k < promoted + 2, "mcnemar": k < plain,
             "failed": ["slice:source=camera 5.balanced_accuracy"]}
            for k in range(n)
        ]  # fmt: skip

    cases = gate.cases(None, quick=True)
    equal = gate.equal_figure({case: trials(0, 1, 400) for case in cases["equal"]})
    assert equal.value == pytest.approx(1 - 0.05 ** (1 / 2000), abs=1e-6)
    assert equal.met
    better = gate.better_figures(dict(zip(cases["better"], (trials(60, 70), trials(90, 95)), strict=False)))
    assert better[0].value == pytest.approx(0.1)
    assert not better[0].met
    assert "2 x slice:source" in better[1].spread
