"""What a run says at its start about the runs before it."""

import os

from flows.repo import workspace
from flows.runs.launch import complete_killed_runs


def test_a_run_says_which_earlier_run_did_not_finish_and_that_it_goes_on_from_there(toy):
    _, lock = workspace.create(toy, "run-dead", {})
    os.close(lock)  # as the system does when the process is killed
    said: list[str] = []
    complete_killed_runs(toy, said.append)
    assert said == ["run run-dead did not finish: this run continues from its finished stages"]
    complete_killed_runs(toy, said.append)
    assert len(said) == 1
