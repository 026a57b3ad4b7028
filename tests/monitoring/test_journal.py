"""The journal stores each window once, in order."""

from datetime import UTC, datetime, timedelta

from monitoring.contracts import DriftDecision, Finding, Measures, Window
from monitoring.journal import Journal, window_id
from tasks.storage.local import LocalStore

START = datetime(2026, 3, 1, 12, tzinfo=UTC)


def pair(n: int, outcome: str = "none", sentence: str = "Nothing moved.") -> tuple[Measures, DriftDecision]:
    start, end = START + n * timedelta(minutes=15), START + (n + 1) * timedelta(minutes=15)
    window = Window(
        id=window_id(start, end), start=start, end=end, version="v0.1.0", bundle="a" * 64, rows=100, used=100
    )
    measures = Measures(window=window, findings=[Finding(name="embedding", status="ok", value=0.5)])
    return measures, DriftDecision(outcome=outcome, sentence=sentence, checks=[], window=window.id)


def test_appended_windows_are_read_newest_last(tmp_path):
    journal = Journal(LocalStore(tmp_path))
    assert journal.recent(3) == []
    pairs = [pair(n) for n in range(5)]
    for measures, decision in reversed(pairs):
        assert journal.append(measures, decision)
    assert journal.recent(3) == pairs[2:]
    assert journal.recent(99) == pairs


def test_a_window_is_stored_once_and_the_first_decision_stays(tmp_path):
    journal = Journal(LocalStore(tmp_path))
    assert journal.append(*pair(0))
    assert journal.append(*pair(0)), "appending the same entry again is fine"
    assert not journal.append(*pair(0, sentence="Everything moved."))
    assert [decision.sentence for _, decision in journal.recent(2)] == ["Nothing moved."]


def test_retrains_are_the_ends_of_their_windows(tmp_path):
    journal = Journal(LocalStore(tmp_path))
    for n, outcome in enumerate(["none", "retrain", "label", "retrain"]):
        journal.append(*pair(n, outcome))
    assert journal.retrains() == [START + timedelta(minutes=30), START + timedelta(minutes=60)]


def test_a_damaged_entry_is_listed_and_the_others_are_read(tmp_path):
    store = LocalStore(tmp_path)
    journal = Journal(store)
    for n in range(3):
        journal.append(*pair(n))
    key = f"windows/{pair(1)[0].window.id}.json"
    (tmp_path / key).write_bytes(b'{"measures": {"window"')
    assert journal.recent(2) == [pair(0), pair(2)]
    assert journal.skipped == [key]


def test_pruning_keeps_the_newest(tmp_path):
    journal = Journal(LocalStore(tmp_path))
    for n in range(4):
        journal.append(*pair(n, "retrain"))
    assert journal.prune(2) == 2
    assert journal.recent(9) == [pair(2, "retrain"), pair(3, "retrain")]
    assert len(journal.retrains()) == 2
    assert journal.prune(2) == 0
