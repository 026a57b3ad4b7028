"""The version benchmarks measure what they claim, and a quick pass of each runs."""

import pytest

from benchmarks import flips, record, rollback, versioning


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """The folder for recorded figures, which a quick pass must leave empty."""
    monkeypatch.setattr(record, "FOLDER", tmp_path / "kept")
    return tmp_path / "kept"


def test_ratios_are_the_peers_time_over_ours_and_say_if_they_are_scaled():
    large, small = {"publish": 2.0, "restore": 1.0}, {"publish": 1.0, "restore": 0.5}
    plain = {"publish": 20.0, "restore": 30.0}
    found = {figure.name: figure for figure in versioning.figures_of(large, plain, small, 500, 100)}
    assert {name: figure.value for name, figure in found.items()} == {
        "publish_vs_dvc_ratio": 50,
        "publish_vs_dvc_ratio_at_100": 20,
        "restore_vs_dvc_ratio": 150,
        "restore_vs_dvc_ratio_at_100": 60,
    }
    assert "of 100 scaled by 5" in found["publish_vs_dvc_ratio"].spread
    same = versioning.figures_of(large, plain, small, 100, 100)
    assert [(figure.name, figure.value) for figure in same] == [
        ("publish_vs_dvc_ratio", 10),
        ("restore_vs_dvc_ratio", 30),
    ]


def test_every_version_is_rolled_back_to_once_and_the_first_is_not_the_live_one():
    for count in range(2, 21):
        assert sorted(rollback.order(count)) == list(range(count))
        assert rollback.order(count)[0] != count - 1


def test_a_quick_pass_of_rollback(kept, capsys):
    rollback.main(["--quick"])
    out = capsys.readouterr().out
    assert all(name in out for name in ("rollback_pointer_s", "restore_1gb_s"))
    (line,) = (line for line in out.splitlines() if "rollback_versions_not_identical" in line)
    assert "yes" in line
    assert not kept.exists()


def test_a_quick_pass_of_versioning(kept, capsys):
    versioning.main(["--quick"])
    out = capsys.readouterr().out
    assert all(name in out for name in ("publish_vs_dvc_ratio", "restore_vs_dvc_ratio"))
    assert not kept.exists()


def test_a_quick_pass_of_flips(kept, capsys):
    flips.main(["--quick"])
    said = capsys.readouterr().out
    assert "flips_missed" in said
    assert "NO" not in said
    assert not kept.exists()
