"""One workspace per run: a detached git worktree of HEAD that shares DVC's cache.

    .evergreen/runs/<run id>/lock       flock held by the run's process while it lives
    .evergreen/runs/<run id>/tree/      the worktree; the newest ones stay, so that `dvc status` still works there
    .evergreen/runs/<run id>/dvc/       DVC's own state of the worktree; deleted with it
    .evergreen/died/<run id>            marks a crashed run; deleted once the UI has been updated

The user's checkout is never touched: not its files, its index or its HEAD. The kernel frees a flock when its process
ends, so a killed process never blocks another run.
"""

import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flows.repo.git import git
from flows.repo.progress import cancel_sentence, record_unfinished
from flows.repo.run_inputs import accept_ending, record_ending, recorded_ending
from tasks.common.errors import EvergreenError, refuse_newer
from tasks.common.failpoints import failpoint
from tasks.common.files import atomic_path, locked, read_json, sweep, write_json
from tasks.common.paths import main_checkout, state_dir
from tasks.common.private import make_folder, open_private
from tasks.common.rebuildable import expect, read_rebuildable

STATE_SCHEMA = 1  # of .evergreen/; a later one will be stated in .evergreen/schema.json
KILLED = "its process was killed: the next run goes on from its finished stages"
KEEP_FINISHED = 3  # workspaces of ended runs that stay
LOCK_SECONDS = 600.0  # checking out a large repository, or removing dead workspaces, takes seconds
STALE_SECONDS = 60.0  # git holds the lock of a ref for milliseconds
SWEPT = (
    "seen",
    "quarantine",
    "validation",
    "cache",
    "ingest",
    "trigger",
    "forget",
    "reports",
    "label-issues",
    "mistakes",
    "unfinished",
)  # under .evergreen


def new_run_id(key: str) -> str:
    """A run id that sorts by time and shows the input key; the pid makes it unique within a microsecond."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S%f}-{key[:6]}-{os.getpid()}"


def check_code_and_state(root: Path) -> None:
    """Raise EvergreenError where this Evergreen cannot run the project: its code is older, or its state newer."""
    if (root / "flows/run.py").is_file() and not (root / "flows/runs/process.py").is_file():
        raise EvergreenError(
            f"{root} has the code of an Evergreen before 0.2, which this command cannot run: `evergreen upgrade` shows "
            "what a newer one would change, or use the `evergreen` of the project's own .venv"
        )
    file = state_dir(root) / "schema.json"
    read_rebuildable(file, lambda about: refuse_newer(about["schema"], STATE_SCHEMA, str(file.parent)))


def create(root: Path, run_id: str, tombstones: dict, rev: str = "HEAD") -> tuple[Path, int]:
    """Make the workspace of run `run_id` at commit `rev`; returns its worktree and the descriptor of the held lock.

    The run's process must inherit the descriptor. A flock belongs to the open file, so a living run never looks dead,
    not even while it starts.
    """
    main = main_checkout(root)
    folder = state_dir(root) / "runs" / run_id
    # A concurrent `reconcile` could take the new folder for a dead run's, and `git worktree prune` removes what
    # `git worktree add` has only begun.
    with _workspaces_locked(root):
        make_folder(folder)
        failpoint("workspace.folder")
        lock = open_private(folder / "lock", os.O_RDWR | os.O_CREAT)
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            return _add_worktree(main, folder / "tree", tombstones, rev), lock
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)  # `reconcile` removes it from git's list at the next start
            os.close(lock)
            raise


def _add_worktree(main: Path, tree: Path, tombstones: dict, rev: str) -> Path:
    git(main, "-c", "core.hooksPath=/dev/null", "worktree", "add", "--detach", "--quiet", str(tree), rev)
    failpoint("workspace.added")
    with atomic_path(tree / ".dvc" / "config.local") as temporary:
        temporary.write_text(_dvc_config(main, tree))
    committed = read_json(tree / "tombstones.json")
    if committed.keys() != (merged := {**tombstones, **committed}).keys():
        write_json(tree / "tombstones.json", merged, tracked=True)
    failpoint("workspace.configured")
    return tree


@contextmanager
def _workspaces_locked(root: Path) -> Iterator[None]:
    """Keep other processes from making or removing workspaces."""
    state = state_dir(root)
    make_folder(state)
    with locked(state / "runs.lock", LOCK_SECONDS, f"the workspaces in {state / 'runs'}"):
        yield


def _dvc_config(main: Path, tree: Path) -> str:
    """The main checkout's cache and remotes as absolute paths: relative ones would differ in a worktree."""
    from dvc.config import Config

    from flows.repo.remotes import on_s3

    config = Config(str(main / ".dvc"), local_dvc_dir=str(main / ".dvc"))
    cache = config["cache"].get("dir") or str(main / ".dvc" / "cache")
    moved = on_s3(tree, main / ".dvc")
    settings: dict[str, dict[str, Any]] = {
        # next to the worktree, not in DVC's shared folder: there one would stay behind for each run
        "core": {"site_cache_dir": str(tree.parent / "dvc")},
        "cache": {"dir": cache, "type": "hardlink,symlink,copy"},
    } | {f'remote "{name}"': remote for name, remote in moved.items()}
    if shared := config["cache"].get("shared"):
        settings["cache"]["shared"] = shared
    for name, remote in config["remote"].items():
        if name not in moved and "://" not in remote["url"]:
            settings[f'remote "{name}"'] = {"url": str((main / ".dvc" / remote["url"]).resolve())}
    lines = []
    for section, values in settings.items():
        lines += [f"[{_quoted(section)}]", *(f"    {key} = {_quoted(str(value))}" for key, value in values.items())]
    return "\n".join(lines) + "\n"


def _quoted(value: str) -> str:
    """`value` as DVC's settings hold it: without quotes, "#" begins a comment and a comma a list."""
    if not set(value) & set("#,'\""):
        return value
    mark = next((mark for mark in ('"', "'") if mark not in value), 3 * "'")
    return f"{mark}{value}{mark}"


def reconcile(root: Path) -> list[str]:
    """Remove what dead runs left, and all but the newest finished workspaces; returns the ids of crashed runs.

    Dead runs leave worktrees, entries in git's list of worktrees, locks of a killed git, and temporary files. An
    ending that a killed starter could not record is recorded now. `crashed_runs` lists the crashed runs from then on.
    """
    main, state = main_checkout(root), state_dir(root)
    with _workspaces_locked(root):
        folders = sorted((state / "runs").iterdir(), reverse=True) if (state / "runs").is_dir() else []
        locks = {folder: lock for folder in folders if (lock := lock_if_ended(folder, create=True)) is not None}
        try:
            unfinished = [folder for folder in locks if read_ending(folder) is None]
            finished = [folder for folder in locks if folder not in unfinished]
            for folder in finished:
                _record_ending_of(root, folder)
            for folder in unfinished:
                said = cancel_sentence(folder)
                record_unfinished(root, folder, "cancelled" if said else "killed", said or KILLED)
                make_folder(state / "died")
                (state / "died" / folder.name).touch()
                failpoint("workspace.died")
            for folder in unfinished + finished[KEEP_FINISHED:]:
                shutil.rmtree(folder, ignore_errors=True)
                failpoint("workspace.removed")
        finally:
            for lock in locks.values():
                os.close(lock)
        _prune_worktrees(main, state / "runs")
    _remove_stale_ref_locks(main)
    for name in SWEPT:
        sweep(state / name)
    sweep(state, ".*.tmp")
    return [folder.name for folder in unfinished]


def crashed_runs(root: Path) -> list[str]:
    """Ids of crashed runs that the UI may still show as running."""
    folder = state_dir(root) / "died"
    return sorted(file.name for file in folder.iterdir()) if folder.is_dir() else []


def clear_crashed(root: Path, run_ids: list[str]) -> None:
    """Drop these runs from `crashed_runs`: the UI has been updated."""
    for run_id in run_ids:
        (state_dir(root) / "died" / run_id).unlink(missing_ok=True)


def _record_ending_of(root: Path, folder: Path) -> None:
    """Record the ending of a finished run whose starter was killed before it could."""
    started, ending = read_started(folder), read_ending(folder)
    if started and ending and started.get("key") and recorded_ending(root, started["key"]) is None:
        record_ending(
            root, started["key"], {"run_id": folder.name} | {k: ending[k] for k in ("outcome", "version", "sentence")}
        )


def read_started(folder: Path) -> dict | None:
    """What the starter of the run in `folder` noted: {key, reason, by}; None if it is missing or damaged."""
    return read_rebuildable(folder / "started.json", lambda about: expect(about, dict), "its run counts as foreign")


def read_ending(folder: Path) -> dict | None:
    """How the run in `folder` ended; None if it has not ended, or the file is damaged: then it counts as crashed."""

    def accept(about: dict) -> dict:
        return accept_ending({"version": None} | about)

    return read_rebuildable(folder / "ended.json", accept, "its run counts as crashed")


def _prune_worktrees(main: Path, runs: Path) -> None:
    """Remove deleted worktrees under `runs` from git's list.

    `git worktree prune` alone keeps those whose creation was killed: git locks a worktree until it is complete.
    """
    for entry in git(main, "worktree", "list", "--porcelain").split("\n\n"):
        path = Path(entry.splitlines()[0].removeprefix("worktree "))
        if path.is_relative_to(runs.resolve()) and not path.parent.exists():  # a living run has its folder
            git(main, "worktree", "remove", "--force", "--force", str(path))
    git(main, "worktree", "prune")


def _remove_stale_ref_locks(main: Path) -> None:
    """Remove the locks that a killed git left on Evergreen's own refs: a locked ref could never move again."""
    refs = (main / git(main, "rev-parse", "--git-common-dir")) / "refs"
    found = [refs / "heads/releases.lock", *refs.glob("tags/*[@#]*.lock"), *refs.glob("evergreen/held/*.lock")]
    for lock in found:
        with suppress(FileNotFoundError):
            if time.time() - lock.stat().st_mtime > STALE_SECONDS:
                lock.unlink()


def _alive(folder: Path) -> bool:
    try:
        lock = os.open(folder / "lock", os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: two processes may ask at the same time
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(lock)


def lock_if_ended(folder: Path, create: bool = False) -> int | None:
    """Lock the workspace `folder` of an ended run, so that no process removes it; returns the lock's descriptor.

    The caller closes the descriptor. None: a process holds the workspace, or it is gone. create: make a missing lock
    file, for a run that died before it made one.
    """
    try:
        lock = open_private(folder / "lock", os.O_RDWR | (os.O_CREAT if create else 0))
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(lock).st_nlink:
            return lock
    except BlockingIOError:
        pass
    os.close(lock)  # another process holds it, or it was deleted after it was opened
    return None


def newest_run(root: Path, key: str) -> str | None:
    """Id of the newest run over the inputs `key` that has a workspace here."""
    runs = state_dir(root) / "runs"
    folders = sorted(runs.glob(f"*-{key[:6]}-*"), reverse=True) if runs.is_dir() else []
    return next((folder.name for folder in folders if (read_started(folder) or {}).get("key") == key), None)


def alive_runs(root: Path) -> Iterator[str]:
    """Ids of runs whose process is alive."""
    runs = state_dir(root) / "runs"
    if runs.is_dir():
        yield from (folder.name for folder in sorted(runs.iterdir()) if _alive(folder))
