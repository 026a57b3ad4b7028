"""Runs in parallel: on one cache, over the same inputs, over different ones, and from a machine that fell behind."""

import fcntl
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml

from flows import launch, workspace
from flows.pipeline import bring_up_to_date, open_repo, restore_data
from tasks.blobs import LocalStore
from tasks.files import read_json
from tasks.store import PointerMoved, Releases, successor
from tests import checkout_project
from tests.conftest import git

SPAWN = multiprocessing.get_context("spawn")


# --- on one cache ------------------------------------------------------------------------------------------------


def work(name: str, root: Path) -> None:
    """A stage: what it makes differs between runs, as their parameters do."""
    number = (root / "number").read_text()
    (root / "artifacts").mkdir(exist_ok=True)
    (root / "metrics").mkdir(exist_ok=True)
    (root / "artifacts/out").write_text(f"{int(number) % 3}\n" * 1000)  # some runs make the same
    (root / "metrics" / f"{name}.json").write_text('{"rows": 1}\n')


def run_in_child(main: str, number: int, start) -> None:
    start.wait()
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
    start = SPAWN.Barrier(10)
    runs = [SPAWN.Process(target=run_in_child, args=(str(toy), number, start)) for number in range(10)]
    for run in runs:
        run.start()
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
    said, order = [], []
    with workspace.only_one(toy, "key"):

        def second() -> None:
            with workspace.only_one(toy, "key", said.append):
                order.append(workspace.seen(toy, "key"))

        waiting = threading.Thread(target=second)
        waiting.start()
        while not said:
            time.sleep(0.01)
        with workspace.only_one(toy, "other", said.append):
            pass  # other inputs go ahead
        workspace.mark_seen(toy, "key", {"outcome": "held"})
    waiting.join(10)
    assert order == [{"outcome": "held"}]
    assert len(said) == 1


def test_the_inputs_are_held_by_the_runs_process_and_free_when_it_is_killed(toy: Path):
    """The starter may go first; a killed run blocks nobody."""
    with workspace.only_one(toy, "key") as lock:
        run = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[lock])
    said: list[str] = []
    threading.Timer(0.3, run.kill).start()
    began = time.monotonic()
    with workspace.only_one(toy, "key", said.append):
        assert time.monotonic() - began < 5
    run.wait()
    assert said == ["a run over these very inputs is under way: waiting for its end"]


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
    assert releases.promote(again).seq == 4  # judged against what is live now
    with pytest.raises(PointerMoved):
        releases.promote(stale)
    assert [p.seq for p in releases.history()] == [1, 2, 3, 4]


# --- over different inputs: real runs ----------------------------------------------------------------------------


@pytest.mark.loop
def test_real_runs_at_once_one_wins_and_the_loser_gates_again(tmp_path: Path):
    """Two `evergreen retrain` over different commits, and a third over the same commit as the second, held back
    until both were judged against nothing: one is the first version, the other is judged again against it, the third
    trains nothing."""
    from tests import test_loop

    project = checkout_project.make(tmp_path / "project", FAST)
    evergreen, releases = test_loop.evergreen, test_loop.releases(project)
    runs, processes = project / ".evergreen/runs", []
    try:
        source = test_loop.write_subset("base.parquet", tmp_path / "base.parquet", 10)
        done = evergreen(project, "ingest", str(source))
        assert done.returncode == 0, done.stderr
        done = evergreen(project, "retrain", failpoint="publish.start")  # its stages are in the run cache now
        assert done.returncode == 128 + 9, done.stdout + done.stderr
        assert releases.live() is None
        dead = {folder.name for folder in runs.iterdir()}

        def begun() -> set[str]:
            return {file.parent.name for file in runs.glob("*/started.json")} - dead

        processes.append(begin(project, "a schedule"))
        wait_until(lambda: len(begun()) == 1 and children(processes[0]))
        (first,) = children(processes[0])
        os.kill(first, signal.SIGSTOP)  # it cannot have uploaded anything before the second has begun
        params = (project / "params.yaml").read_text()
        (project / "params.yaml").write_text(params.replace("reference_rows: 40", "reference_rows: 32"))
        git(project, "commit", "-qam", "fewer rows")
        processes.append(begin(project, "a person"))
        wait_until(lambda: len(begun()) == 2)
        with open(project / ".evergreen/releases/.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # nobody can upload: both have been judged by then
            assert releases.live() is None
            os.kill(first, signal.SIGCONT)
            processes.append(begin(project, "an alarm"))
            wait_until(lambda: all((runs / name / "verdict.json").is_file() for name in begun()))
            assert releases.live() is None
        said = [process.communicate(timeout=300)[0] for process in processes]
        codes = [process.returncode for process in processes]
    finally:
        for process in processes:
            process.kill()
        evergreen(project, "down")
    assert all(code in (0, 4) for code in codes), said
    assert "under way: waiting" in said[2]
    assert "nothing new since run" in said[2]
    both = said[0] + said[1]
    assert both.count("another run published first: judging again") == 1, both
    history = releases.history()
    assert [p.seq for p in history] == list(range(1, len(history) + 1))
    outcomes = sorted(run["outcome"] for run in releases.runs().values())
    assert len(outcomes) == 2
    assert outcomes.count("promoted") == len(history) >= 1
    loser = [run for run in releases.runs().values() if run["bundle"] != history[0].bundle]
    assert loser[0]["verdict"]["champion"] == history[0].version
    ended = [read_json(file)["outcome"] for file in runs.glob("*/ended.json")]
    assert sorted(ended) == outcomes
    assert launch.up_to_date(project)[2] is not None


FAST = checkout_project.FAST | {  # one epoch of a small network
    "train_backbone": {
        "backbone": "test_efficientnet",
        "pretrained": "none",
        "epochs": {"frozen": 0, "last": 0, "all": 1},
    },
    "gate": checkout_project.FAST["gate"] | {"first_model": {"test.balanced_accuracy": 0.0}},
}


def begin(project: Path, reason: str) -> subprocess.Popen:
    env = {**os.environ, "PYTHONPATH": str(project)}
    env.pop("PREFECT_API_URL", None)
    command = [sys.executable, "-m", "flows.cli", "retrain", "--reason", reason]
    return subprocess.Popen(command, cwd=project, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def children(process: subprocess.Popen) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def wait_until(true, seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.1)
