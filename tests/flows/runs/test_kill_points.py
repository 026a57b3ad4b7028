"""kill -9 at the points no other test kills at, what a dead run leaves, and that nothing waits forever.

The full matrix, every point five times, is `python -m benchmarks.kills`.
"""

import fcntl
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import kills, record
from benchmarks.kill_scenarios import SCENARIOS
from flows.publishing import registry
from flows.repo import run_inputs, workspace
from flows.repo.git import git
from flows.runs import launch
from tasks.common import failpoints
from tasks.common.errors import EvergreenError
from tasks.common.files import atomic_dir, atomic_path, sweep, wait_for_lock, write_json
from tests.support.checkout import ROOT

ELSEWHERE = {  # points that need more than a scenario has
    "store.part": "tests/tasks/storage/test_s3_store.py",
    "train_backbone.epoch": "tests/loop/test_loop.py",
    "restore.placed": "tests/flows/backup/test_backup.py",
    "refused.noted": "tests/flows/publishing/test_decisions.py",
    "late_labels.revised": "tests/flows/production/test_late_labels.py",
    "late_labels.shown": "tests/flows/production/test_late_labels.py",
    "rollout.begun": "tests/flows/rollout/test_killed.py",
    "rollout.advanced": "tests/flows/rollout/test_killed.py",
    "rollout.promoted": "tests/flows/rollout/test_killed.py",
    "rollout.ended": "tests/flows/rollout/test_killed.py",
    "rollout.recorded": "tests/flows/rollout/test_killed.py",
    "ledgers.claimed": "tests/flows/versions/test_shared_places.py",
    "ledgers.replaced": "tests/flows/versions/test_shared_places.py",
}
COVERED = (
    "ingest",
    "publish",
    "forget",
    "gc",
    "answers",
    "finish",
    "classes",
    "hardset",
)  # scenarios whose points have tests of their own


def test_every_point_in_the_code_is_listed_and_killed_at():
    found = set()
    for file in [file for package in ("flows", "tasks", "monitoring") for file in (ROOT / package).rglob("*.py")]:
        for name in re.findall(r'failpoint\(f?"(.+?)"\)', file.read_text()):
            found.add(name.partition(".{")[0])
    assert found == set(failpoints.names())
    killed = {point for scenario in SCENARIOS.values() for point in scenario.points}
    assert killed | set(ELSEWHERE) == found
    assert len(killed) >= 30
    for point, test in ELSEWHERE.items():
        module, _, where = point.partition(".")
        text = (ROOT / test).read_text()
        assert point in text or (module in text and where in text) or "POINTS" in text


def test_before_or_after_and_the_next_start_completes_it(tmp_path: Path):
    wanted = {name: found.points for name, found in SCENARIOS.items() if name not in COVERED}
    wanted["override"] = tuple(point for point in wanted["override"] if not point.startswith("publish."))
    made, wrong, points = kills.matrix(tmp_path, wanted, seeds=1)
    assert wrong == []
    assert points == {point for named in wanted.values() for point in named}
    assert made == sum(map(len, wanted.values())) > 25


def test_a_point_that_a_scenario_reaches_is_killed_at_although_it_does_not_name_it(tmp_path: Path):
    made, wrong, points = kills.matrix(tmp_path, {"files": ("files.placed",)}, seeds=1, reached=True)
    assert (made, wrong) == (len(points), [])
    assert points > {"files.placed", "files.folder", "store.placed"}


def test_a_quick_pass_keeps_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setattr(record, "FOLDER", tmp_path / "kept")
    kills.main(["--quick", "--only", "files"])
    out = capsys.readouterr().out
    assert all(name in out for name in ("kill_points", "kills_between_states"))
    assert not (tmp_path / "kept").exists()


def test_a_killed_erasure_is_completed_by_the_next_retraining(tmp_path: Path):
    """Killed before its commit it leaves data.dvc changed, which a run would refuse."""
    from benchmarks.killing.data import Forget

    root = tmp_path / "project"
    Forget.make(root)
    call = f"from benchmarks.killing.data import *; Forget.act(Path({str(root)!r}), 1)"
    env = {**os.environ, "EVERGREEN_FAILPOINT": "forget.rewritten", "PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, "-c", call], env=env).returncode == -signal.SIGKILL
    changed = root / "params.yaml"
    changed.write_text(changed.read_text() + "# not committed\n")
    with pytest.raises(EvergreenError, match="differ from HEAD"):  # retrain stops here, after the erasure
        launch.retrain(root, "a schedule", say=lambda text: None)
    git(root, "checkout", "--quiet", "params.yaml")
    Forget.whole(root)
    assert Forget._id(1) not in Forget.state(root)


def test_a_point_can_kill_at_a_later_time():
    code = "from tasks.common.failpoints import failpoint\nfor n in range(5): print(n, flush=True); failpoint('a.b')"
    env = {**os.environ, "EVERGREEN_FAILPOINT": "a.b:3", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, "0\n1\n2\n")


# --- what the dead leave ----------------------------------------------------------------------------------------


def test_temporary_files_of_the_dead_go_and_those_of_the_living_stay(tmp_path: Path):
    code = (
        "import os, sys; from pathlib import Path; from tasks.common.files import *\n"
        "with atomic_path(Path('cache/deep/file.json')) as a, atomic_dir(Path('cache/folder')) as b:\n"
        "    a.write_text('half'); (b / 'x').write_text('half'); os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == -signal.SIGKILL
    with atomic_path(tmp_path / "cache/deep/alive") as alive, atomic_dir(tmp_path / "cache/living") as living:
        alive.write_text("1")
        assert len(list(tmp_path.rglob(".*.tmp"))) == 4
        assert sweep(tmp_path) == 2
        assert alive.exists()
        assert living.exists()
    assert (tmp_path / "cache/deep/alive").read_text() == "1"
    assert not list(tmp_path.rglob(".*.tmp"))


def test_half_a_restored_folder_goes_when_it_is_restored_again(tmp_path: Path):
    half = tmp_path / ".back.abc.tmp"
    half.mkdir()
    (half / "part").write_text("half")
    with atomic_dir(tmp_path / "back") as folder:
        (folder / "part").write_text("whole")
    assert [path.name for path in tmp_path.iterdir()] == ["back"]


def test_a_folder_that_cannot_be_replaced_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "old").mkdir()
    (tmp_path / "old/a").write_text("1")
    with pytest.raises(FileNotFoundError), atomic_dir(tmp_path / "old") as folder:
        folder.rmdir()  # as somebody might who cleans up
    assert (tmp_path / "old/a").read_text() == "1"


def test_what_a_killed_git_leaves_of_a_worktree_is_forgotten(toy: Path):
    """git locks a worktree until it is whole, and `git worktree prune` keeps locked ones."""
    tree, lock = workspace.create(toy, "run-1", {})
    os.close(lock)
    (admin,) = (toy / ".git/worktrees").iterdir()
    (admin / "locked").write_text("initializing")
    assert workspace.reconcile(toy) == ["run-1"]
    assert not tree.exists()
    assert not list((toy / ".git").glob("worktrees/*"))


def test_a_ref_locked_by_a_killed_git_is_freed(toy: Path, monkeypatch: pytest.MonkeyPatch):
    hook = toy / ".git/hooks/reference-transaction"
    hook.write_text('#!/bin/sh\n[ "$1" = prepared ] && kill -9 $PPID\nexit 0\n')
    hook.chmod(0o755)
    with pytest.raises(EvergreenError):
        git(toy, "update-ref", registry.BRANCH, "HEAD")
    hook.unlink()
    with pytest.raises(EvergreenError, match="lock"):
        git(toy, "update-ref", registry.BRANCH, "HEAD")
    workspace.reconcile(toy)
    assert (toy / ".git/refs/heads/releases.lock").exists(), "young: its git may live"
    monkeypatch.setattr(workspace, "STALE_SECONDS", 0.0)
    workspace.reconcile(toy)
    git(toy, "update-ref", registry.BRANCH, "HEAD")


def test_a_run_cache_entry_that_was_never_written_stops_nobody(toy: Path, monkeypatch: pytest.MonkeyPatch):
    """DVC makes the entry's folder first: killed there, every later run of this stage met an empty folder."""
    from dvc.stage.cache import _get_stage_hash

    from flows.repo.pipeline import bring_up_to_date, open_repo
    from tests.flows.repo.test_pipeline import Stage

    monkeypatch.chdir(toy)  # DVC resolves stages against the current folder
    repo, stage = open_repo(toy), Stage()
    (found,) = repo.stage.collect("inspect")
    found.save_deps()
    Path(repo.stage_cache._get_cache_dir(_get_stage_hash(found))).mkdir(parents=True)
    assert bring_up_to_date(open_repo(toy), "inspect", stage) == "ran"


def test_a_dead_runs_name_is_kept_until_prefect_was_told(toy: Path):
    _, lock = workspace.create(toy, "run-1", {})
    os.close(lock)
    assert workspace.reconcile(toy) == ["run-1"]
    assert workspace.reconcile(toy) == []
    assert workspace.crashed_runs(toy) == ["run-1"], "the server may not have answered"
    workspace.clear_crashed(toy, ["run-1"])
    assert workspace.crashed_runs(toy) == []


def test_the_ending_of_a_run_whose_starter_was_killed_is_noted(toy: Path):
    tree, lock = workspace.create(toy, "run-1", {})
    write_json(tree.parent / "started.json", {"key": "abc"})
    write_json(tree.parent / "ended.json", {"outcome": "rejected", "version": None, "sentence": "worse"})
    os.close(lock)
    assert workspace.reconcile(toy) == []
    assert run_inputs.recorded_ending(toy, "abc") == {
        "run_id": "run-1",
        "outcome": "rejected",
        "version": None,
        "sentence": "worse",
    }


def test_a_published_run_that_was_killed_before_its_record_gets_it(tmp_path: Path):
    from benchmarks.killing.checks import start
    from benchmarks.killing.releases import Publish
    from tests.support.versions_project import store

    root = tmp_path / "project"
    Publish.make(root)  # publishes as run-99, and ends there
    folder = root / ".evergreen/runs/run-99"
    write_json(folder / "started.json", {"key": "abc", "reason": "a schedule", "by": "ann"})
    write_json(folder / "verdict.json", {"outcome": "promote"})
    start(root)
    run = store(root).run("run-99")
    assert (run["key"], run["outcome"], run["version"]) == ("abc", "promoted", "v0.1.0")
    assert run["verdict"] == {"outcome": "promote"}
    assert run_inputs.recorded_ending(root, "abc")["version"] == "v0.1.0", "the next start has nothing to do"
    assert not folder.exists()


# --- nothing waits forever -------------------------------------------------------------------------------------


def test_a_lock_is_free_at_once_when_its_holder_is_killed_and_named_when_it_hangs(tmp_path: Path):
    code = (
        "import fcntl, sys, time; f = open('lock', 'w'); fcntl.flock(f, fcntl.LOCK_EX); print(1, flush=True); input()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "1\n"
    with open(tmp_path / "lock", "w") as lock:
        with pytest.raises(EvergreenError, match=r"the lock has been locked by another process for 0\.2 s"):
            wait_for_lock(lock, 0.2, "the lock")
        holder.kill()
        began = time.monotonic()
        wait_for_lock(lock, 60, "the lock")
        assert time.monotonic() - began < 30  # of 60: a busy machine may need a second for the kill
    holder.wait()


def test_a_store_whose_lock_hangs_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from tasks.storage import local

    monkeypatch.setattr(local, "LOCK_SECONDS", 0.1)
    store = local.LocalStore(tmp_path / "store")
    with open(tmp_path / "store/.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(EvergreenError, match=r"the store .*store has been locked"):
            store.create("a", b"1")
    store.create("a", b"1")
    assert store.read("a")[0] == b"1"
    assert store.sweep() == 0
