"""`evergreen retrain`: check whether there is something to do, then start one run.

The up-to-date check imports nothing heavy. It hashes what HEAD names (git's own object ids) and the tombstones. If a
run over exactly these inputs has ended, the command reports that ending and starts nothing.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from flows.publishing.outcomes import CANCELLED, without_advice
from flows.repo import run_inputs, workspace
from flows.repo.progress import cancel_sentence
from flows.server.api import Api
from flows.server.environment import environment
from flows.server.process import api_of, ensure_server, mark_crashed, revive_server
from tasks.common.errors import EvergreenError
from tasks.common.files import write_json
from tasks.common.machine_limits import memory_left
from tasks.common.params import load_params, load_run_params
from tasks.common.paths import main_checkout
from tasks.common.person import person
from tasks.releases.store import open_store

LOOK = 3.0  # seconds between two looks at the Prefect server while a run goes on


def retrain(root: Path, reason: str, force: bool = False, say=print) -> int:
    """Start one run in its own workspace and process and wait for it. Returns the exit code.

    0: promoted, held, or nothing new; 1: an error; 3: bad data refused; 4: the challenger was rejected; 5: cancelled.
    """
    _finish_erasure(root, say)
    run_inputs.refuse_dirty(root)
    key, tombstones, ended = run_inputs.current_inputs(root)
    if ended and not force:
        return _nothing_new(root, ended, say)
    if force:  # a forced run does not wait for others
        return _start(root, key, tombstones, reason, None, say)
    with run_inputs.lock_inputs(root, key, say) as flight:
        complete_killed_runs(root, say)
        # again: the run we waited for may have ended with these inputs, or one whose starter was killed
        key, tombstones, ended = run_inputs.current_inputs(root)
        if not ended:
            return _start_here(root, key, tombstones, reason, flight, say)
        if workspace.crashed_runs(root) and api_of(root):
            _mark_dead_runs(root, ensure_server(root, say))
        return _nothing_new(root, ended, say)


def _finish_erasure(root: Path, say) -> None:
    """Complete an `evergreen forget` that was killed: it may have left a change of data.dvc uncommitted."""
    journals = sorted((workspace.state_dir(root) / "forget").glob("*.json"))
    if not journals or list(workspace.alive_runs(root)):
        return
    from flows.erasure.forget import complete_erasures

    complete_erasures(root, say)


def _nothing_new(root: Path, ended: dict, say) -> int:
    """Report how the run over these inputs ended; a person may have approved it or overruled its verdict since."""
    now = open_store(load_params(root / "params.yaml").store, root).run(ended["run_id"]) or {}
    ended = ended | {name: now[name] for name in ("outcome", "version", "sentence") if now.get(name)}
    version = f" {ended['version']}" if ended.get("version") else ""
    sentence = ended["sentence"] if ended["outcome"] == "held" else without_advice(ended["sentence"])
    say(f"nothing new since run {ended['run_id']} ({ended['outcome']}{version}): {sentence}")
    if since := _no_longer_live(root, ended.get("version")):
        say(since)
    return 0


def _start_here(root: Path, key: str, tombstones: dict, reason: str, flight: int, say) -> int:
    """Start one run over the inputs `key`, unless another machine on this release store has finished one."""
    from flows.publishing import run_records
    from flows.runs import lease

    releases, run_id = open_store(load_params(root / "params.yaml").store, root), workspace.new_run_id(key)
    lease.take(releases, root, key, run_id, say)
    try:
        if ended := run_records.latest_ending(releases, key):
            run_inputs.record_ending(root, key, ended)
            return _nothing_new(root, ended, say)
        return _start(root, key, tombstones, reason, flight, say, run_id)
    finally:
        lease.give_back(releases, key, run_id)  # in case its process was killed and could not


def _start(
    root: Path, key: str, tombstones: dict, reason: str, flight: int | None, say, run_id: str | None = None
) -> int:
    """Start one run over the inputs `key`; its process inherits `flight`, the lock on these inputs."""
    if flight is None:
        complete_killed_runs(root, say)
    workspace.check_code_and_state(root)
    load_run_params(root / "params.yaml")  # refuses what DVC would not notice, before a workspace is made
    check_writable(root)
    api = ensure_server(root, say)
    _mark_dead_runs(root, api)
    run_id = run_id or workspace.new_run_id(key)
    tree, lock = workspace.create(root, run_id, tombstones)
    write_json(tree.parent / "started.json", {"key": key, "reason": reason, "by": person(root)})
    say(f"run {run_id}: {reason}")
    env = environment(root) | api.environment()
    env |= {
        "PYTHONPATH": str(tree),  # the run uses the code of its commit
        "PYTHONUNBUFFERED": "1",
        "EVERGREEN_STATE": str(workspace.state_dir(root)),
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": os.environ.get("EVERGREEN_CONSOLE_LEVEL", "CRITICAL"),
    }
    command = [sys.executable, "-m", "flows.runs.process", run_id, reason, person(root)]
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # the child unblocks it once it can end cleanly
    try:
        process = subprocess.Popen(
            command, cwd=tree, env=env, pass_fds=[lock, *([flight] if flight is not None else [])]
        )
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    os.close(lock)  # the child holds it now
    code = _wait(process, partial(revive_server, root, api, say))
    if cancel_sentence(tree.parent) and workspace.read_ending(tree.parent) is None:
        code = CANCELLED  # also of a process that had to be killed
        say(f"run {run_id} was {cancel_sentence(tree.parent)}")
    elif code == 128 + signal.SIGKILL:
        say(
            f"the run's process was killed from outside, as the system does when memory runs out: {memory_left()}. "
            "Finished stages and epochs are kept: `evergreen retrain` goes on from there"
        )
    if ending := workspace.read_ending(tree.parent):
        run_inputs.record_ending(
            root, key, {"run_id": run_id} | {k: ending[k] for k in ("outcome", "version", "sentence")}
        )
    return code


def _mark_dead_runs(root: Path, api: Api) -> None:
    """Mark the flow runs of killed processes as crashed in Prefect: they would look alive forever."""
    died = workspace.crashed_runs(root)
    mark_crashed(api, died)
    workspace.clear_crashed(root, died)


def _no_longer_live(root: Path, version: str | None) -> str | None:
    """Say that `version` was rolled back since; None if it was not."""
    from flows.publishing.history import open_project, withdrawn

    releases = open_project(root)[1]
    live = releases.live()
    if version is None or live is None or live.version == version:
        return None
    found = [entry for entry in withdrawn(releases.history()).values() if entry.release.version == version]
    if not found:
        return None
    rollback = found[0].rollback
    return (
        f"since then {rollback.by} rolled {version} back to {rollback.version} ({rollback.why}); {live.version} is "
        f"live. `evergreen rollback {version}` makes {version} live again."
    )


def check_writable(root: Path) -> None:
    """Raise EvergreenError if a release could not be stored: publishing would find out only after the training."""
    from dvc.config import Config
    from dvc.exceptions import DvcException

    main, url = main_checkout(root), load_params(root / "params.yaml").store.url
    try:
        config = Config(str(main / ".dvc"), local_dvc_dir=str(main / ".dvc"))
    except DvcException as error:
        raise EvergreenError(f"DVC cannot read {main / '.dvc/config'}: {error}") from error
    if (name := config["core"].get("remote")) not in config["remote"]:
        found = f"core.remote names {name!r}, which is not defined" if name else "no default remote"
        raise EvergreenError(
            f"no DVC remote to store data and models in ({main / '.dvc/config'}: {found}): run "
            "`dvc remote add --default store ../.evergreen/remote`, or name another place, and commit .dvc/config"
        )
    remote = config["remote"][name]["url"]
    for folder in (main / Path(url).expanduser(), main / ".dvc" / remote):  # an S3 address is not a folder here
        if folder.is_dir() and not os.access(folder, os.W_OK | os.X_OK):
            raise EvergreenError(
                f"{folder.resolve()}, where releases and their data are stored, is not writable for you: change its "
                "permissions, or name another place (store.url in params.yaml, the remote in .dvc/config)"
            )


def _wait(process: subprocess.Popen, look: Callable[[], None]) -> int:
    """Return the child's exit code. An interrupt is passed on to the child, which ends cleanly, so keep waiting for it.

    A terminal interrupts the child as well: it takes both for one (flows.runs.interrupts).
    look: called every LOOK seconds meanwhile.
    """
    while True:
        try:
            code = process.wait(LOOK)
            return 128 - code if code < 0 else code
        except subprocess.TimeoutExpired:
            look()
        except KeyboardInterrupt:
            process.send_signal(signal.SIGINT)


def complete_killed_runs(root: Path, say) -> None:
    """Complete what killed runs left: half-published releases, records of held runs, workspaces.

    Refuses a branch that publishing would refuse, before the training rather than after it.
    """
    from flows.publishing import registry, run_records
    from flows.publishing.publish import reconcile
    from flows.rollout.act import reconcile_rollout

    params = load_params(root / "params.yaml")
    main, releases = main_checkout(root), open_store(params.store, root)
    registry.check_branch(main)
    done = reconcile(main, releases, params.bundle.name) + run_records.reconcile(main, releases)
    done += reconcile_rollout(root, releases)
    for line in done:  # first: a workspace, deleted below, says why its published run was started
        say(line)
    for run_id in workspace.reconcile(root):
        say(f"run {run_id} did not finish: this run continues from its finished stages")
