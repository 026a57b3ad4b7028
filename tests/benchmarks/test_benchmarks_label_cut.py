"""The benchmark of the cut: its figures from known scores, and a quick pass."""

import numpy as np
import pytest

from benchmarks import label_cut


def scores(ours: float, best: float, cleanlab: float, argmax: float) -> dict:
    return {"ours": ours, "best_cut": best, "cleanlab": cleanlab, "argmax": argmax}


def test_the_worst_set_decides():
    cuts = {"a": scores(0.8, 0.82, 0.7, 0.75), "b": scores(0.9, 0.91, 0.95, 0.5)}
    gap = {"given": 60.0, "repaired": 65.0, "true": 70.0}
    probes = {"a": {"auroc": {"ours": 0.9, "peer": 0.8}, "gap": gap}}
    times = {name: {"seconds": seconds, "mib": 1.0} for name, seconds in zip(label_cut.FINDERS, (3, 2), strict=True)}
    values = {figure.name: figure.value for figure in label_cut.figures_of(cuts, probes, times)}
    assert values == pytest.approx(
        {
            "cut_vs_better_peer_min": -0.05,
            "cut_f1_gap_max": 0.02,
            "auroc_error_ratio": 0.5,
            "clean_gap_recovered": 0.5,
            "cut_1m_x_100_ratio": 1.5,
        }
    )


def test_f1_counts_found_and_missed():
    assert label_cut.f1(np.array([True, True, False]), np.array([True, False, True])) == 0.5


def test_a_quick_pass_of_label_cut(tmp_path, capsys):
    label_cut.main([str(tmp_path), "--quick"])
    assert "cut_1m_x_100_ratio" in capsys.readouterr().out
    assert len(list((tmp_path / "label-cut").iterdir())) == 2
