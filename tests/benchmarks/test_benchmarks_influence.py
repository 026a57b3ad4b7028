"""The benchmark of influence measures what it claims, and its quick pass runs."""

import numpy as np
import pytest

from benchmarks import influence as benchmark
from benchmarks import record
from benchmarks.label_noise import LabelSet
from benchmarks.scratch import ROOT
from tasks.common.params import load_params
from tasks.models import influence


def test_a_quick_pass_records_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(record, "FOLDER", tmp_path / "kept")
    benchmark.main(["--quick"])
    said = capsys.readouterr().out
    for name in ("influence_refit_correlation", "influence_wrong_in_9", "influence_gain_60", "influence_seconds"):
        assert name in said
    assert not (tmp_path / "kept").exists()


def test_planted_wrong_labels_are_counted():
    rng = np.random.default_rng(0)
    true = rng.integers(3, size=360)
    x = (1.5 * np.eye(3, 12)[true] + rng.normal(0, 0.5, (360, 12))).astype(np.float16)
    given = np.where(np.arange(360) % 6 == 0, (true + 1) % 3, true)
    names = np.arange(360).astype(str)
    labels = LabelSet("planted", x, given, true, names, ["a", "b", "c"])
    found = benchmark.measure(labels, load_params(ROOT / "params.yaml"), 0)
    assert found.share == pytest.approx(1 / 6, abs=0.06)
    assert found.wrong[benchmark.OURS, 9] == 1
    assert found.wrong[benchmark.RANDOM, 60] < 0.5
    assert found.gain[benchmark.OURS, 9] > found.gain[benchmark.RANDOM, 9]
    assert np.corrcoef(found.predicted, found.real)[0, 1] > 0.9
    figures = {one.name: one for one in benchmark.figures_of([found, found], "_x")}
    assert figures["influence_wrong_in_9_x"].value == 1
    assert figures["influence_wrong_in_9_x"].goal == round(found.wrong[benchmark.CLEANLAB, 9], 4)


def test_an_outlier_has_the_largest_influence_on_itself():
    rng = np.random.default_rng(0)
    y = rng.integers(3, size=200)
    x = (np.eye(3, 6)[y] + rng.normal(0, 0.5, (200, 6))).astype(np.float32)
    x[7] *= 5
    y[7] = (y[7] + 1) % 3
    assert benchmark.on_itself(influence.teach(x, y, 3, None, 0.05)).argmax() == 7
