"""A quick pass of the benchmark of precisions runs and records nothing."""

from benchmarks import precision, record


def test_a_quick_pass_trains_in_both_precisions_and_says_what_auto_takes(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(record, "FOLDER", tmp_path / "kept")
    precision.main(["--quick"])
    shown = capfd.readouterr()
    said = shown.out + shown.err
    for name in precision.QUICK:
        assert f"{name}: float32 " in said
    assert "precision_auto_ratio" in said
    assert not (tmp_path / "kept").exists()
