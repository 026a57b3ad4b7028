"""The benchmark of kills at random times: a seed is always the same kill, and calls add up."""

import json

from benchmarks import random_kills
from benchmarks.kill_scenarios import RANDOM_ONLY, SCENARIOS
from tasks.stages.runner import STAGES


def test_a_quick_pass_kills_at_random_times_and_goes_on_with_the_next_seeds(tmp_path, capsys):
    for _ in range(2):
        random_kills.main([str(tmp_path), "--quick", "--only", "files", "answers"])
    rows = [json.loads(line) for line in (tmp_path / "random_kills.jsonl").read_text().splitlines()]
    assert {(row["scenario"], row["seed"]) for row in rows} == {(n, s) for n in ("files", "answers") for s in (0, 1)}
    assert [row["wrong"] for row in rows] == [None] * 4
    shown = capsys.readouterr().out
    assert "random_kills_between_states" in shown


def test_every_stage_and_command_that_changes_something_is_killed():
    assert {f"stage_{name}" for name in STAGES} < set(RANDOM_ONLY)
    assert {"ingest", "publish", "rollback", "gc", "forget", "answers", "finish", "classes"} < set(SCENARIOS)
    assert "up" in RANDOM_ONLY


def test_a_state_between_is_told():
    reference = {"before": ["a"], "after": ["b"]}
    assert random_kills.wrong(reference, {"killed": ["a"], "again": ["b"]}) is None
    assert "between" in random_kills.wrong(reference, {"killed": ["a", "b"], "again": ["b"]})
    assert "not completed" in random_kills.wrong(reference, {"killed": ["a"], "again": ["a"]})
    assert random_kills.draw("files", 7) == random_kills.draw("files", 7) != random_kills.draw("files", 8)
