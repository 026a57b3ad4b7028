"""The journal stores each window once, in order."""

from datetime import UTC, datetime, timedelta

from monitoring.contracts import DriftDecision, Finding, Measures, Window
from monitoring.journal import Journal, named_window, window_id, window_times
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


def again(measures: Measures, value: float) -> Measures:
    late = Finding(name="accuracy.true", status="info", value=value, low=value - 0.1, high=value + 0.1)
    return measures.model_copy(update={"findings": [*measures.findings[:1], late]})


def test_a_window_measured_again_counts_once_with_its_newest_measures_and_its_own_decision(tmp_path):
    journal = Journal(LocalStore(tmp_path))
    for n in range(3):
        journal.append(*pair(n, "retrain" if n == 1 else "none"))
    measures, decision = pair(1, "retrain")
    assert journal.revise(again(measures, 0.5), START + timedelta(days=2))
    assert journal.revise(again(measures, 0.6), START + timedelta(days=3))
    assert not journal.revise(again(measures, 0.6), START + timedelta(days=4)), "the same measures are no revision"
    assert journal.recent(9) == [pair(0), (again(measures, 0.6), decision), pair(2)]
    assert journal.read(measures.window.id) == (again(measures, 0.6), decision)
    assert journal.revised_at(measures.window.id) == START + timedelta(days=3)
    assert journal.revised_at(pair(0)[0].window.id) is None
    assert journal.retrains() == [START + timedelta(minutes=30)], "a revision starts nothing"
    kept = {path.name for path in (tmp_path / "windows").iterdir()}
    assert kept == {f"{pair(n)[0].window.id}.json" for n in range(3)}
    assert len(list((tmp_path / "revisions").iterdir())) == 2, "the first revision stays: it says what was known then"


def test_only_known_windows_are_revised_and_a_damaged_revision_leaves_the_one_before(tmp_path):
    journal = Journal(LocalStore(tmp_path))
    measures, decision = pair(0)
    assert not journal.revise(again(measures, 0.5), START)
    journal.append(measures, decision)
    journal.revise(again(measures, 0.5), START)
    journal.revise(again(measures, 0.7), START)
    (tmp_path / f"revisions/{measures.window.id}-2.json").write_bytes(b"{")
    assert journal.recent(1) == [(again(measures, 0.5), decision)]
    assert journal.skipped == [f"revisions/{measures.window.id}-2.json"]


def test_two_monitors_that_revise_a_window_at_once_both_leave_an_entry(tmp_path):
    first, second = Journal(LocalStore(tmp_path)), Journal(LocalStore(tmp_path))
    measures, decision = pair(0)
    first.append(measures, decision)
    numbers = second.revisions
    second.revisions = lambda window="": {}  # it had listed them before the first wrote its own
    assert first.revise(again(measures, 0.5), START)
    assert second.revise(again(measures, 0.6), START)
    second.revisions = numbers
    assert second.read(measures.window.id) == (again(measures, 0.6), decision)


def test_pruning_a_window_removes_its_revisions(tmp_path):
    journal = Journal(LocalStore(tmp_path))
    for n in range(2):
        journal.append(*pair(n))
        journal.revise(again(pair(n)[0], 0.5), START)
    journal.prune(1)
    assert [path.name for path in (tmp_path / "revisions").iterdir()] == [f"{pair(1)[0].window.id}-1.json"]


def test_periods_that_started_a_retraining_are_remembered(tmp_path):
    journal = Journal(LocalStore(tmp_path))
    assert journal.acted_on() == set()
    journal.append(*pair(0, "retrain"), accuracy=["2026-02-23-aaaaaaaaaaaa"])
    journal.record_retrain(pair(1)[0].window.id, ["2026-03-02-aaaaaaaaaaaa"])
    assert journal.acted_on() == {"2026-02-23-aaaaaaaaaaaa", "2026-03-02-aaaaaaaaaaaa"}
    assert len(journal.retrains()) == 2


def test_a_window_id_says_when():
    later = START + timedelta(minutes=15)
    assert window_times(window_id(START, later)) == (START, later)
    assert window_times("b") is None
    name = window_id(START, later)
    assert named_window(f"drift: window {name}: 3 measures") == name
    assert named_window(f"{name} on schedule, window w-1") is None
