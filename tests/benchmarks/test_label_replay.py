"""The replay of corrections measures what it claims, and a quick pass runs."""

from benchmarks import label_replay, record


def test_corrections_undo_earlier_ones_of_the_same_image():
    made = label_replay.corrections(200, ["a", "b"], seed=1)
    undone = [(answer, made[target][0]) for answer, target in made if target is not None]
    assert 20 < len(undone) < 80
    assert all(answer.id == earlier.id and answer.at > earlier.at for answer, earlier in undone)


def test_a_difference_is_counted():
    assert label_replay.differ([("cat", False), ("dog", False)], [("cat", False), (None, True)]) == 1


def test_a_quick_pass(tmp_path, monkeypatch):
    monkeypatch.setattr(record, "FOLDER", tmp_path / "kept")
    (figure,) = label_replay.main(["--quick"])
    assert (figure.name, figure.value) == ("replay_mismatches", 0)
    assert not figure.spread.startswith("0 ")
    assert not (tmp_path / "kept").exists()
