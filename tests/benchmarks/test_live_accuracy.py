"""The benchmark of live accuracy simulates what it says, and goes on where it was."""

import numpy as np
import pytest

from benchmarks import live_accuracy as benchmark
from benchmarks import record


@pytest.mark.parametrize("accuracy", benchmark.ACCURACIES)
def test_answers_are_as_often_right_as_the_cell_says_and_the_queue_is_biased(accuracy):
    rng = np.random.default_rng(0)
    traffic = benchmark.draw(rng, accuracy, "calibrated", 100_000)
    assert traffic.right.mean() == pytest.approx(accuracy, abs=0.01)
    asked = benchmark.people(rng, traffic, 10_000)
    assert traffic.confidence[asked].mean() > traffic.confidence.mean(), "unclear images are answered less often"
    queued = benchmark.queue(rng, traffic, 5_000)
    assert traffic.right[queued].mean() < traffic.right.mean()


def test_a_quick_pass_records_nothing_and_a_second_one_only_reads(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(record, "FOLDER", tmp_path / "figures")
    benchmark.main([str(tmp_path / "kept"), "--quick"])
    assert "live_accuracy_coverage_min" in capsys.readouterr().out
    assert not (tmp_path / "figures").exists()
    assert len(list((tmp_path / "kept").iterdir())) == len(benchmark.LABELS) * len(benchmark.ACCURACIES)
    monkeypatch.setattr(benchmark, "cell", None)
    benchmark.main([str(tmp_path / "kept"), "--quick"])
    assert "live_accuracy_label_share" in capsys.readouterr().out
