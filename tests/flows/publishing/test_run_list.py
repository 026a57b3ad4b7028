"""Every recorded run as a row: what has ended for good is read once, what waits for a person each time."""

import json

from flows.publishing import held
from flows.publishing.run_list import held_runs, run_rows
from tests.flows.publishing.test_held import end
from tests.support.released_project import store


def reads(releases) -> list[str]:
    """The keys of records that are read from now on."""
    found, read = [], releases.store.read

    def counted(key):
        found.append(key)
        return read(key)

    object.__setattr__(releases.store, "read", counted)
    return found


def test_held_runs_are_found_at_once_and_others_read_only_once(main):
    assert [row.run_id for row in run_rows(main)] == ["run-3", "run-2", "run-1"]
    assert held_runs(main) == []
    releases = store(main)
    read = reads(releases)
    run_rows(main, releases)
    assert [key for key in read if key.startswith("runs/")] == []
    end(main, "run-4", "held", keep=True)
    (row,) = held_runs(main, releases)
    assert (row.run_id, row.by, row.reason, row.comments) == ("run-4", "ann", "a test", 0)
    assert [key for key in read if key.startswith("runs/")] == ["runs/run-4.json"]


def test_a_decision_shows_in_the_next_list(main):
    end(main, "run-4", "rejected", keep=False)
    assert run_rows(main)[0].outcome == "rejected"
    held.override(main, "run-4", by="bob", why="signed off")
    row = run_rows(main)[0]
    assert (row.outcome, row.version, row.how, row.decided_by, row.why) == (
        "promoted",
        "v0.4.0",
        "override",
        "bob",
        "signed off",
    )


def test_damaged_records_and_a_damaged_cache_cost_only_themselves(main):
    folder = main / ".evergreen/releases/runs"
    (folder / "20260102T030405000000-a-1.json").write_text("{")
    (folder / "20260102T030406000000-a-1.json").write_text("[1]")
    (folder / "20260102T030407000000-a-1.json").write_text(json.dumps({"outcome": "odd"}))
    rows = run_rows(main)
    assert [row.outcome for row in rows[:3]] == ["promoted"] * 3  # "run-" sorts after digits
    assert [row.outcome for row in rows[3:]] == ["damaged"] * 3
    assert rows[5].at.isoformat() == "2026-01-02T03:04:05+00:00"
    assert "is not JSON" in rows[5].sentence
    (cache,) = (main / ".evergreen/cache/runs").iterdir()
    cache.write_text('{"schema": 9}')
    assert [row.outcome for row in run_rows(main)] == [row.outcome for row in rows]
