"""The benchmark of families tells which networks work from those that are refused, and a quick pass runs."""

import pytest

from benchmarks import families, record


def test_a_quick_pass_runs_and_goes_on_where_it_was(tmp_path, monkeypatch):
    monkeypatch.setattr(record, "FOLDER", tmp_path / "figures")
    works, refused = families.main([str(tmp_path), "--quick"])
    assert works["works"]
    assert not refused["works"]
    assert min(works["milliseconds"], works["megabytes"], works["memory_megabytes"]) > 0
    assert "LevitClassifier" in refused["reason"] or "linear classifier" in refused["reason"]
    assert {figure.name: figure.value for figure in families.figures([works, refused])}["working_networks"] == 1
    monkeypatch.setattr(families, "measure", lambda *_: pytest.fail("measured again"))
    assert families.main([str(tmp_path), "--quick"]) == [works, refused]
    assert not (tmp_path / "figures").exists()


def test_a_network_is_tried_at_its_own_size_if_its_name_has_one():
    assert families.side_of("maxvit_rmlp_pico_rw_256", False) == 256
    assert families.side_of("vit_base_patch16_224.mae", False) == 224
