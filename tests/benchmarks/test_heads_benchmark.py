"""The comparison of stage-2 methods: its long tail, and a pass over a part of the default set."""

import numpy as np

from benchmarks import heads


def test_gains_are_those_of_few_and_many_shot_classes():
    found = {"counts": np.array([1000, 60, 10]), "each": {"stage1": np.array([90.0, 50, 10])}}
    assert tuple(heads.gains(found, np.array([88.0, 70, 40]))) == (30.0, -2.0)


def test_a_quick_pass_compares_every_method(tmp_path, capsys):
    heads.main([str(tmp_path / "kept"), "--quick"])
    printed = capsys.readouterr().out
    assert "head_vs_best_points" in printed
    assert "head_refit_epochs" in printed
    assert (tmp_path / "kept" / "fashion-0.npz").is_file()
