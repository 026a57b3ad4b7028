"""The benchmark of tunings and heads runs, goes on where it was, and says who is ahead."""

from benchmarks import tuning
from tasks.common.files import read_json, write_json


def test_a_quick_pass_measures_every_arm_and_keeps_what_it_measured(tmp_path, capsys):
    for name in tuning.ARMS:  # as if stopped before the last arm
        if name != "norm":
            write_json(tmp_path / f"{name}-0.json", {"score": 50.0, "seconds": 1.0})
    tuning.main([str(tmp_path), "--quick"])
    assert 0 <= read_json(tmp_path / "norm-0.json")["score"] <= 100
    out = capsys.readouterr().out
    assert all(f"tuning_{name}_points" in out for name in tuning.ARMS)


def test_figures_are_differences_on_the_same_seeds():
    runs = {"full": [70.0, 80.0], "lora": [68.0, 76.0]}
    found = tuning.figures_of({name: [{"score": s, "seconds": 2.0} for s in scores] for name, scores in runs.items()})
    assert [(one.name, one.value) for one in found] == [("tuning_full_points", 75.0), ("tuning_lora_points", -3.0)]
