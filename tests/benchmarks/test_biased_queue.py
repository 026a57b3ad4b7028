"""The benchmark of the biased queue simulates what it says, and goes on where it was."""

import numpy as np
import pytest
from scipy.stats import binomtest

from benchmarks import biased_queue as benchmark
from benchmarks import record


def test_models_are_as_good_as_said_and_an_equal_one_seems_better_on_what_the_champion_found_hard():
    images = benchmark.draw(np.random.default_rng(0), 200_000, 0.03)
    assert images.champion.mean() == pytest.approx(0.85, abs=0.005)
    assert images.challenger.mean() == pytest.approx(0.88, abs=0.005)
    images = benchmark.draw(np.random.default_rng(1), 200_000, 0.0)
    hard = images.take(np.argsort(images.sure)[:10_000])
    assert hard.challenger.mean() - hard.champion.mean() > 0.05


def test_now_only_fair_samples_are_tested():
    images, picked, batch = benchmark.labelled(np.random.default_rng(0), 0.0, "now")
    assert len(images.true) == len(picked) == len(batch)
    assert set(picked) == {"representative", "audit"}
    assert (picked[batch == 0] == "representative").all()
    before, _, days = benchmark.labelled(np.random.default_rng(0), 0.0, "before")
    late = before.take(np.flatnonzero(days > 0))
    assert late.champion.mean() < 0.75 < 0.8 < images.take(np.flatnonzero(batch > 0)).champion.mean()


def test_the_bound_is_exact():
    for count, n in ((0, 100), (7, 2_000), (100, 100)):
        exact = binomtest(count, n, alternative="less").proportion_ci(0.95, "exact").high
        assert benchmark.upper_bound(count, n) == pytest.approx(exact)


def test_a_quick_pass_records_nothing_and_a_second_one_only_reads(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(record, "FOLDER", tmp_path / "figures")
    benchmark.main([str(tmp_path / "kept"), "--quick"])
    first = capsys.readouterr().out
    assert "biased_equal_promoted" in first
    assert not (tmp_path / "figures").exists()
    monkeypatch.setattr(benchmark, "promoted", None)
    benchmark.main([str(tmp_path / "kept"), "--quick"])
    assert "biased_power_3_points" in capsys.readouterr().out
