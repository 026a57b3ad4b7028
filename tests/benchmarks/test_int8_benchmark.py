"""A quick pass of benchmarks.int8."""

import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import int8, record
from tests.support.checkout import ROOT


def test_a_quick_pass_measures_speed_and_points(tmp_path, monkeypatch, capsys):
    table = pq.read_table(ROOT / "datasets/fashion/base.parquet", columns=["image", "label"])
    wanted = np.isin(table["label"].to_numpy(zero_copy_only=False), ["Bag", "Trouser"])
    pq.write_table(table.filter(pa.array(wanted)).slice(0, 120), tmp_path / "set.parquet")
    monkeypatch.setattr(record, "FOLDER", tmp_path / "kept")
    arguments = ["--trashnet", str(tmp_path / "set.parquet"), "--seeds", "1", "--side", "32", "--quick"]
    monkeypatch.setattr(sys, "argv", ["int8", *arguments])
    int8.main()
    said = capsys.readouterr().out
    assert "int8_speedup" in said
    assert "int8_points_lost" in said
    assert not (tmp_path / "kept").exists()
