"""A quick pass of the benchmark of exports runs and records nothing."""

from benchmarks import exports, record


def test_a_quick_pass_checks_formats_and_says_which_were_not_run(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(record, "FOLDER", tmp_path / "kept")
    monkeypatch.setattr(exports, "QUICK", ("triton",))
    exports.main(["--quick"])
    shown = capfd.readouterr().out
    assert "triton {" in shown
    assert "export_parity_max" in shown
    assert not (tmp_path / "kept").exists()
