import pytest

from benchmarks import ray_scale, record


def test_the_simulated_driver_and_window_bound_what_workers_do():
    even = [1.0] * 640
    assert ray_scale.simulate(even, 64, 0.0).efficiency == 1
    assert ray_scale.simulate(even, 64, 0.5).seconds > 320  # the driver hands out two units a second
    one = ray_scale.simulate([100.0] + [1.0] * 20, 2, 0.0)  # three others fit beside the long one
    assert one.seconds == pytest.approx(100 + 17 / 2, abs=1)


def test_a_quick_pass(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(record, "FOLDER", tmp_path / "kept")
    ray_scale.main(["--quick"])
    shown = capsys.readouterr().out
    for name in ("ray_result_differs", "ray_kill_recoveries", "ray_overhead_ratio", "ray_sim_efficiency_64"):
        assert name in shown
    assert not (tmp_path / "kept").exists()
