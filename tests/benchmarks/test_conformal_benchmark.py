"""The benchmark of plausible classes measures what it says, on drawn images and in its quick pass."""

import numpy as np

from benchmarks import conformal as benchmark
from benchmarks import record


def test_bounds_by_class_keep_the_coverage_that_one_bound_does_not():
    found = benchmark.measure(*benchmark.drawn(), divisions=8)
    often = np.array(found["images"]) >= benchmark.ENOUGH
    gap = {method: np.abs(np.array(one) - benchmark.WANTED)[often].max() for method, one in found["coverage"].items()}
    assert gap["by class"] < 0.03 < gap["plain"]
    assert found["with_answer"] > found["length"]["by class"]
    assert abs(found["shift"]) < 0.01


def test_a_quick_pass_records_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(record, "FOLDER", tmp_path / "figures")
    benchmark.main(["--quick"])
    shown = capsys.readouterr().out
    assert "class_coverage_gap" in shown
    assert "rare_class_coverage" in shown
    assert not (tmp_path / "figures").exists()
