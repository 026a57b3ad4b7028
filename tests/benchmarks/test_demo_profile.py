from benchmarks import demo_profile, record


def test_a_quick_pass_profiles_both_runs_and_the_floor(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(record, "FOLDER", tmp_path / "kept")
    demo_profile.main(["--quick"])
    printed = capsys.readouterr().out
    for name in ("demo_first_s", "demo_first_inspect_s", "demo_next_validate_s", "demo_floor_ratio"):
        assert name in printed
    assert not (tmp_path / "kept").exists()


def test_the_ratio_is_of_all_cpu_seconds_over_those_of_the_floor():
    stage = {"stage": "inspect", "wall": 3.0, "cpu": 6.0, "imports": 1.0, "memory": 10, "read": 20, "written": 30}
    floor = {"decode": 1.0, "features": 2.0, "training": 4.0, "disk": 1.0}
    found = {one.name: one.value for one in demo_profile.figures_of({"first": [stage, stage]}, floor)}
    assert found["demo_first_s"] == 6
    assert found["demo_floor_ratio"] == 12 / 8
