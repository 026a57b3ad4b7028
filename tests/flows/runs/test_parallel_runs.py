"""Runs in parallel: on one cache, over the same inputs, and from a machine that fell behind. Whole runs at once are in
tests/loop/test_loop.py."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml

from benchmarks.killing.server import SERVER
from flows.repo import run_inputs, workspace
from flows.repo.pipeline import bring_up_to_date, open_repo, restore_data
from tasks.releases.pointer import successor
from tasks.releases.store import PointerMoved, Releases
from tasks.storage.local import LocalStore
from tests.support.checkout import git
from tests.support.children import start

# --- on one cache ------------------------------------------------------------------------------------------------


def work(name: str, root: Path) -> None:
    """A stage: what it makes differs between runs, as their parameters do."""
    number = (root / "number").read_text()
    (root / "artifacts").mkdir(exist_ok=True)
    (root / "metrics").mkdir(exist_ok=True)
    (root / "artifacts/out").write_text(f"{int(number) % 3}\n" * 1000)  # some runs make the same
    (root / "metrics" / f"{name}.json").write_text('{"rows": 1}\n')


def run_in_child(main: str, number: int, together) -> None:
    together.wait()
    workspace.reconcile(Path(main))  # as every start does: it must spare those that begin this moment
    tree, lock = workspace.create(Path(main), f"run-{number}", {})
    (tree / "number").write_text(str(number))
    (tree / "tasks/code.py").write_text(f"code = {number % 3}\n")
    repo = open_repo(tree)
    restore_data(repo)
    outcome = bring_up_to_date(repo, "inspect", work)
    assert outcome in ("ran", "restored")
    assert bring_up_to_date(repo, "inspect", work) == "unchanged"
    assert repo.status() == {}
    repo.close()
    os.close(lock)


def test_ten_runs_at_once_on_one_cache(toy: Path):
    pipeline = yaml.safe_load((toy / "dvc.yaml").read_text())
    pipeline["stages"]["inspect"]["deps"].append("tasks/code.py")
    (toy / "dvc.yaml").write_text(yaml.safe_dump(pipeline))
    git(toy, "commit", "-qam", "code decides")
    together = SERVER.Barrier(10)
    runs = [start(run_in_child, str(toy), number, together) for number in range(10)]
    for run in runs:
        run.join(120)
    assert [run.exitcode for run in runs] == [0] * 10
    repo = open_repo(toy)
    for file in (toy / ".dvc/cache/files/md5").rglob("*"):
        if file.is_file():
            repo.cache.local.check(file.parent.name + file.name)  # raises for a torn object
    repo.close()
    assert len(workspace.reconcile(toy)) <= 10
    assert git(toy, "worktree", "list").count("\n") == 0
    assert git(toy, "status", "--porcelain") == ""


# --- over the same inputs ----------------------------------------------------------------------------------------


def test_a_second_start_over_the_same_inputs_waits_and_finds_them_done(toy: Path):
    said, order, held = [], [], {"outcome": "held", "sentence": "held for approval"}
    with run_inputs.lock_inputs(toy, "key"):

        def second() -> None:
            with run_inputs.lock_inputs(toy, "key", said.append):
                order.append(run_inputs.recorded_ending(toy, "key"))

        waiting = threading.Thread(target=second)
        waiting.start()
        while not said:
            time.sleep(0.01)
        with run_inputs.lock_inputs(toy, "other", said.append):
            pass  # other inputs go ahead
        run_inputs.record_ending(toy, "key", held)
    waiting.join(60)
    assert order == [held]
    assert len(said) == 1


def test_the_inputs_are_held_by_the_runs_process_and_free_when_it_is_killed(toy: Path):
    """The starter may go first; a killed run blocks nobody."""
    with run_inputs.lock_inputs(toy, "key") as lock:
        run = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[lock])
    said: list[str] = []
    threading.Timer(0.3, run.kill).start()
    began = time.monotonic()
    with run_inputs.lock_inputs(toy, "key", said.append):
        assert time.monotonic() - began < 60
    run.wait()
    assert said == ["a run over the same inputs is in progress: waiting until it ends"]


# --- a machine that fell behind ----------------------------------------------------------------------------------


def test_a_stale_writer_is_refused(tmp_path: Path):
    """Two machines on one store have no lock in common: the pointer's number and uid are the fence. A writer that was
    stopped after it looked is refused, also when what it saw is live again in every other respect."""
    releases = Releases(LocalStore(tmp_path / "store"))
    about = {"run_id": "run", "git_rev": "0" * 40, "bundle": "0" * 64, "by": "ann", "why": "x"}
    first = releases.promote(successor(None, version="v0.1.0", **about))
    stale = successor(first, version="v0.2.0", **about)  # judged against `first`; its machine sleeps now
    second = releases.promote(successor(first, version="v0.3.0", **about))
    back = releases.promote(successor(second, version="v0.1.0", **about))  # v0.1.0 again: the same model, not the same
    with pytest.raises(PointerMoved):
        releases.promote(stale)
    again = stale.model_copy(update={"seq": back.seq + 1, "prev": back.version})
    with pytest.raises(PointerMoved):  # renumbered, but its predecessor's digest is that of another promotion
        releases.promote(again)
    again = successor(back, version="v0.2.0", **about)
    assert releases.promote(again).seq == 4  # judged against what is live now
    with pytest.raises(PointerMoved):
        releases.promote(stale)
    assert [p.seq for p in releases.history()] == [1, 2, 3, 4]
