"""The processes of experiments, here and on the workers of a real Ray cluster.

Each worktree has a stand-in for the stages, so a trial takes as long as a Python process.
"""

import _thread
import json
import os
import signal
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest

from flows.experiments.launch import Made, Setup, _Making
from flows.experiments.trial import Ended, OnWorker, Trial, run_here, run_on_ray
from flows.publishing.experiment_table import Row
from tests.support.waiting import until

STAND_IN = """
import json, os, signal, sys
from pathlib import Path

folder = Path.cwd().parent
asked = json.loads((folder / "asked.json").read_text())
assert sys.argv[1] == folder.name
assert os.environ["EVERGREEN_STATE"] == asked["state"]
if asked.get("kills") and not (folder / "killed").exists():
    (folder / "killed").touch()
    os.kill(int(os.environ["EVERGREEN_PARENT"]), signal.SIGKILL)
    os._exit(1)
print("hello from", folder.name)
(folder / "made.json").write_text(json.dumps({"error": f"said by {folder.name}"}))
sys.exit(asked["code"])
"""

WAITS = """
import time
from pathlib import Path

try:
    Path("../started").touch()
    time.sleep(30)
except KeyboardInterrupt:
    Path("../interrupted").touch()
"""


def trial(root: Path, name: str, code: int = 1, kills: bool = False) -> Trial:
    folder = root / name
    package = folder / "tree/flows/experiments"
    package.mkdir(parents=True)
    for part in (package, package.parent):
        (part / "__init__.py").touch()
    (package / "process.py").write_text(STAND_IN)
    asked = {"code": code, "kills": kills, "state": str(root / ".evergreen")}
    (folder / "asked.json").write_text(json.dumps(asked))
    return Trial(name, root, folder, (os.open(os.devnull, os.O_RDONLY), os.open(os.devnull, os.O_RDONLY)), ExitStack())


def codes(ended: list[Ended]) -> list[int]:
    assert all(one.seconds > 0 for one in ended)
    return [one.code for one in ended]


def test_trials_run_here_one_after_another(tmp_path, monkeypatch):
    monkeypatch.delenv("EVERGREEN_STATE", raising=False)
    trials = [trial(tmp_path, "first"), trial(tmp_path, "second", 3)]
    with open(tmp_path / "out.txt", "w") as out:
        assert codes(list(run_here(trials, out))) == [1, 3]
    assert (tmp_path / "out.txt").read_text().splitlines() == ["hello from first", "hello from second"]
    assert trials[1].result(3) == "said by second"
    (trials[0].folder / "made.json").unlink()
    assert trials[0].result(137) == "its process ended with exit code 137"


def test_trials_run_on_the_workers_of_a_cluster_and_again_where_a_worker_is_killed(ray_cluster, tmp_path, monkeypatch):
    monkeypatch.delenv("EVERGREEN_STATE", raising=False)
    trials = [trial(tmp_path, "first", 1, kills=True), trial(tmp_path, "second", 3)]
    said = []
    assert codes(list(run_on_ray(trials, ray_cluster, said.append))) == [1, 3]
    assert "up to 2 at once" in said[0]
    assert any("experiment first is done again" in line for line in said)
    assert (tmp_path / "first/printed.txt").read_text() == "hello from first\n"


def test_a_trial_whose_task_is_cancelled_takes_back_what_it_was_writing_and_ends(tmp_path):
    folder = trial(tmp_path, "first").folder
    (folder / "tree/flows/experiments/process.py").write_text(WAITS)

    def cancel() -> None:  # as Ray does
        until((folder / "started").exists)
        _thread.interrupt_main()

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    cancelling = threading.Thread(target=cancel)
    cancelling.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            OnWorker(folder, tmp_path / ".evergreen").run()
    finally:
        cancelling.join()
        signal.signal(signal.SIGINT, before)
    assert (folder / "interrupted").exists()


def test_results_come_in_the_order_of_the_plan_though_some_were_made_before(tmp_path):
    said = []
    making = _Making(Setup(tmp_path, "key", {}, "", None, "a tester"), None, said.append, alone=True)
    row = Row(name="known", kind="experiment", changes={}, champion="v1", sentence="", figures={})
    first = trial(tmp_path, "first")
    first.result = lambda code: row.model_copy(update={"name": "first"})
    making.waiting.append(first)
    making._add(row)
    assert making.made.rows == []
    making.end(Ended(0, 2.0))
    assert [one.name for one in making.made.rows] == ["first", "known"]
    assert making.slowest == 2.0
    failing = trial(tmp_path, "failing")
    making.waiting.append(failing)
    making.end(Ended(137, 1.0))
    assert making.made == Made(making.made.rows, [("failing", "its process ended with exit code 137")])
