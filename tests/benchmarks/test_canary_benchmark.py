"""The benchmark of canaries simulates what it says."""

import numpy as np

from benchmarks import canary, record
from benchmarks.canary_traffic import ACCURACY, CLASSES, answer


def test_equal_models_are_as_often_right_and_bad_ones_are_bad_in_one_class():
    rng = np.random.default_rng(0)
    true = rng.integers(0, len(CLASSES), 50_000)
    assert abs((answer(rng, true, "equal", 0) == true).mean() - ACCURACY) < 0.01
    assert 3 not in answer(rng, true, "collapsed", 3)
    swapped = answer(rng, true, "swapped", 3)
    assert abs((swapped == 3).mean() - 0.1) < 0.01, "its answers look the same"
    assert (swapped[true == 3] == 3).mean() < 0.05


def test_a_quick_pass_records_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(record, "FOLDER", tmp_path / "figures")
    canary.main(quick=True)
    out = capsys.readouterr().out
    assert "canary_rollback_requests" in out
    assert "shadow_false_rollbacks" in out
    assert not (tmp_path / "figures").exists()
