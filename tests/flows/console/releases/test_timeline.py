"""Versions with the runs between them, cut into pages."""

from datetime import UTC, datetime, timedelta

from flows.console.releases.timeline import of_outcome, releases, table, words_of
from flows.publishing.history import Period
from flows.publishing.run_list import RecordedRow

START = datetime(2026, 11, 1, tzinfo=UTC)


def at(hours: float) -> datetime:
    return START + timedelta(hours=hours)


def period(seq: int, since: float, until: float | None, again: bool = False, why: str = "better") -> Period:
    about = {"by": "ann", "why": why, "bundle": "b", "git_rev": "r", "again": again}
    end = None if until is None else at(until)
    return Period(seq=seq, version=f"v0.{seq}.0", since=at(since), until=end, run_id=f"run-{seq}", **about)


def run(name: str, hours: float, outcome: str = "rejected", **about) -> RecordedRow:
    return RecordedRow(run_id=name, outcome=outcome, at=at(hours), sentence="s", **about)


def test_runs_are_folded_into_the_version_that_was_live_when_they_ended():
    history = [period(1, 10, 20), period(2, 20, None)]
    rows = [
        run("e", 25),
        run("d", 20),
        run("c", 19.9, "unchanged"),
        run("b", 10),
        run("a", 5, "refused"),
        run("run-1", 10, "promoted"),
    ]
    first, shown, following = releases(history, rows, {"v0.1.0": {}})
    assert [row.run_id for row in first] == ["a"], "nothing was live yet"
    assert [(one.period.version, [row.run_id for row in one.others]) for one in shown] == [
        ("v0.2.0", ["e", "d"]),
        ("v0.1.0", ["c", "b"]),
    ]
    assert shown[1].folded == "2 other runs: 1 the same model again, 1 rejected"
    assert (shown[1].retired, shown[0].retired, following) == (True, False, None)


def test_a_page_holds_fifty_versions_and_the_next_begins_after_it():
    history = [period(seq, seq, seq + 1) for seq in range(1, 121)]
    seen, after = [], None
    for length in (50, 50, 20):
        _, shown, after = releases(history, [], {}, after)
        assert len(shown) == length
        seen += [one.period.seq for one in shown]
    assert (seen, after) == (list(range(120, 0, -1)), None)


def test_how_a_version_came_and_how_a_run_ended_in_our_words():
    approved = run("run-2", 20, "promoted", how="approved", decided_by="bob", why="looked at by hand")
    history = [
        period(1, 10, 20, why="adopted from x.onnx"),
        period(2, 20, 30),
        period(1, 30, None, True, "rollback: worse"),
    ]
    _, shown, _ = releases(history, [approved], {})
    assert [(one.what, one.why) for one in shown] == [
        ("live again by a rollback", "worse"),
        ("approved by a person", "looked at by hand"),
        ("adopted", "adopted from x.onnx"),
    ]
    assert words_of(run("x", 1, how="refused", decided_by="bob")) == "refused by bob"
    assert [line[1] for line in table(history, [approved, run("x", 40)])][:2] == [
        "rejected",
        "live again by a rollback",
    ]


def test_one_outcome_is_paged_by_the_run():
    rows = [run(f"r-{number:03}", number) for number in reversed(range(60))]
    shown, following = of_outcome(rows, "rejected")
    assert (len(shown), following) == (50, "r-010")
    assert [row.run_id for row in of_outcome(rows, "rejected", following)[0]] == [
        f"r-{n:03}" for n in reversed(range(10))
    ]
    assert of_outcome(rows, "held") == ([], None)
