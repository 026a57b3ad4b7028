"""The benchmark of leaks, on a few images: it plants copies and counts what the real steps keep out."""

import numpy as np

from benchmarks.leak_kinds import KINDS
from benchmarks.leaks import plant, run, score
from benchmarks.scratch import FASHION


def test_planted_copies_are_counted_by_kind(tmp_path):
    kinds = np.array(["", "", "", "", "exact", "mirror", "mirror"])
    found = score(kinds, np.array([False, True, False, False, True, True, False]))
    assert found == {"exact": 1.0, "mirror": 0.5, "near": 0.5, "unrelated": 0.25}
    about = plant(FASHION / "base.parquet", tmp_path, 6, 30, 1)
    assert set(about["kind"].tolist()) == {"", "exact", *KINDS}
    assert (about["kind"] == "").sum() == 30


def test_the_quick_pass_runs_the_real_steps(tmp_path):
    found = run([FASHION / "base.parquet"], tmp_path, None, 6, 40, 1)["base"]["evergreen"]
    assert found["exact"] == 1.0
    assert found["near"] > 0.5
    assert found["unrelated"] < 0.2
