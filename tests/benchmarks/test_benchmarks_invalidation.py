"""What typical edits trigger: a quick pass of the benchmark, and the figures it computes."""

from benchmarks import invalidation, record
from benchmarks.invalidation import EDITS, Found, figures_of
from tests.support.checkout import ROOT


def test_each_edit_changes_an_existing_file():
    assert len(EDITS) >= 30
    assert [file for _, file, _ in EDITS if not (ROOT / file).is_file()] == []


def test_needless_and_missed_are_counted_separately():
    pairs = [
        (
            Found({"inspect", "embed"}, {"tasks.dataset.pixels"}, True),
            Found({"embed", "clean", "bundle"}, set(), False),
        ),
        (Found(), Found(set(), {"tasks.inspection.measures"}, True)),
        (Found({"clean"}, set(), True), Found({"clean"}, set(), True)),
    ]
    assert {figure.name: figure.value for figure in figures_of(pairs)} == {
        "needless_reruns": 1,
        "missed_reruns": 2,
        "needless_starts": 1,
        "missed_starts": 1,
        "needless_recomputations": 1,
        "missed_recomputations": 1,
    }
    assert figures_of(pairs)[0].spread == "3 stages re-run, of 3 edits"


def test_the_quick_pass_finds_nothing_needless_and_nothing_missed(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(record, "FOLDER", tmp_path / "kept")
    invalidation.main(["--quick"])
    shown = capsys.readouterr()
    assert shown.out.count("yes") == 6, shown.out + shown.err
    assert "NO" not in shown.out
    assert not (tmp_path / "kept").exists()
