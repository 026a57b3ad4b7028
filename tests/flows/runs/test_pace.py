"""A run says at its start how long it may take, from how long each stage last took."""

from flows.runs import pace
from tasks.stages.runner import STAGES


def test_the_estimate_adds_up_how_long_each_stage_last_took(tmp_path, monkeypatch):
    monkeypatch.setenv("EVERGREEN_STATE", str(tmp_path))
    assert "after its first batches" in pace.expected(tmp_path)
    for stage in STAGES[:-1]:
        pace.remember(tmp_path, stage, 10)
    assert "after its first batches" in pace.expected(tmp_path)  # one stage never ran
    pace.remember(tmp_path, STAGES[-1], 10)
    pace.remember(tmp_path, "train_backbone", 400)
    said = pace.expected(tmp_path)
    assert said == "about 8 min if every stage has to run, about 7 min of it training, as they last took"
    (tmp_path / "stage_seconds.json").write_text("{")
    assert "after its first batches" in pace.expected(tmp_path)
