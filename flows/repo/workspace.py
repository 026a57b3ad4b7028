"""One workspace per run: a detached git worktree of the user's HEAD that shares DVC's cache and remote.

    .evergreen/runs/<run id>/lock       held (flock) by the run's process while it lives
    .evergreen/runs/<run id>/tree/      the worktree; kept for the newest runs, so that `dvc status` can be asked
    .evergreen/runs/<run id>/dvc/       what DVC remembers of the worktree; goes with it
    .evergreen/seen/<input key>.json    how the run over these inputs ended: the up-to-date check
    .evergreen/seen/<input key>.lock    held (flock) by the one run over these inputs while it lives
    .evergreen/died/<run id>            a run that died and is gone, until whoever shows runs was told

The user's checkout is never touched: not its files, not its index, not its HEAD. Every lock is a flock: a killed
process blocks nobody.
"""

import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from flows.repo.git import check_repository, git
from tasks.common.errors import EvergreenError
from tasks.common.failpoints import failpoint
from tasks.common.files import atomic_path, parse_yaml, read_json, sweep, wait_for_lock, write_json
from tasks.common.params import load_params
from tasks.common.paths import main_checkout, state_dir
from tasks.releases.store import open_store

INPUTS = ("data.dvc", "params.yaml", "dvc.yaml", "tombstones.json")  # what decides a run's result, beside its code
# Code that decides a verdict and that no stage of dvc.yaml uses: the rest of the import closure of judge_run. A test
# compares them.
JUDGING = ("flows/publishing/judge_run.py", "tasks/gate/")
CODE = ("tasks", "flows", "serving", "monitoring")  # a run imports all of it from its commit
KEEP = 3  # finished workspaces that stay
RUN_SECONDS = 24 * 3600.0  # a step of a run is ended after 12 hours
LOCK_SECONDS = 600.0  # checking a large repository out, or removing dead workspaces, takes seconds
STALE_SECONDS = 60.0  # git holds the lock of a ref for milliseconds
SWEPT = ("seen", "quarantine", "validation", "cache", "ingest", "trigger", "forget", "reports")  # beneath .evergreen


def input_key(root: Path, tombstones: dict) -> str:
    """Names everything a run's result depends on: committed data, params, the code of stages and gate, tombstones.

    Raises EvergreenError when HEAD lacks one of them (no data ingested yet, say).
    """
    try:
        pipeline = git(root, "show", "HEAD:./dvc.yaml")
    except EvergreenError:
        check_repository(root)  # only now: its two calls of git would take as long as all the rest
        pipeline = ""  # missed below
    try:
        needed = stage_dependencies(parse_yaml(pipeline) or {})
    except Exception as error:  # whatever a person may write there: YAML's errors, and lists where DVC has mappings
        raise EvergreenError(f"dvc.yaml at HEAD is not a pipeline that DVC can read: {error}") from error
    listing = git(root, "ls-tree", "HEAD", "--", *INPUTS, *needed, *JUDGING)
    found = {line.split("\t")[1] for line in listing.splitlines()}
    if "data.dvc" not in found:
        raise EvergreenError("HEAD has no data.dvc: run `evergreen ingest FOLDER` first (it commits data.dvc)")
    if missing := set(INPUTS) - found:
        raise EvergreenError(f"HEAD lacks {', '.join(sorted(missing))}: commit them first")
    return hashlib.sha256(f"{listing}\n{sorted(tombstones)}".encode()).hexdigest()[:24]


def stage_dependencies(pipeline: dict) -> list[str]:
    """Files and folders of the project that the stages of a parsed dvc.yaml need and do not make, sorted."""
    stages = pipeline.get("stages", {}).values()
    outs = {path for stage in stages for kind in ("outs", "metrics", "plots") for path in _paths(stage, kind)}
    deps = {path for stage in stages for path in _paths(stage, "deps")} - outs
    return sorted(path for path in deps if "://" not in path and not path.startswith(("/", "../")))


def _paths(stage: dict, kind: str) -> Iterator[str]:
    """An entry is a path, or {path: options}."""
    for entry in stage.get(kind) or []:
        yield from [entry] if isinstance(entry, str) else entry


def refuse_dirty(root: Path) -> None:
    """Raise EvergreenError when files that decide a run's result differ from HEAD: a run uses HEAD only."""
    status = git(root, "status", "--porcelain", "--untracked-files=normal", "--", *INPUTS, *CODE)
    if status:
        shown = "\n  ".join(status.splitlines()[:10])
        raise EvergreenError(
            f"these files differ from HEAD, and a run uses HEAD only:\n  {shown}\nCommit them (or `git stash`), then "
            "start again."
        )


def seen(root: Path, key: str) -> dict | None:
    """How the run over these inputs ended, if one has."""
    file = state_dir(root) / "seen" / f"{key}.json"
    return read_json(file) if file.is_file() else None


def mark_seen(root: Path, key: str, ending: dict) -> None:
    write_json(state_dir(root) / "seen" / f"{key}.json", ending)


def new_run_id(key: str) -> str:
    """Sorts by time and tells the inputs apart; unique against a run started in the same microsecond by pid."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S%f}-{key[:6]}-{os.getpid()}"


def create(root: Path, run_id: str, tombstones: dict, rev: str = "HEAD") -> tuple[Path, int]:
    """Make the workspace of run `run_id` at commit `rev`; returns its worktree and the descriptor of the held lock.

    The descriptor is to be inherited by the run's process (flock goes with the open file), so there is no
    moment at which a living run looks dead.
    """
    main = main_checkout(root)
    folder = state_dir(root) / "runs" / run_id
    # beside another run's `reconcile` the new folder could be taken for a dead run's, and a `git worktree prune`
    # removes what a `git worktree add` has only begun
    with _alone(root):
        folder.mkdir(parents=True)
        failpoint("workspace.folder")
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            return _fill(main, folder / "tree", tombstones, rev), lock
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)  # git forgets its worktree at the next start
            os.close(lock)
            raise


def _fill(main: Path, tree: Path, tombstones: dict, rev: str) -> Path:
    git(main, "-c", "core.hooksPath=/dev/null", "worktree", "add", "--detach", "--quiet", str(tree), rev)
    failpoint("workspace.added")
    with atomic_path(tree / ".dvc" / "config.local") as temporary:
        temporary.write_text(_dvc_config(main, tree))
    committed = read_json(tree / "tombstones.json")
    if committed.keys() != (merged := {**tombstones, **committed}).keys():
        write_json(tree / "tombstones.json", merged)
    failpoint("workspace.configured")
    return tree


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    """Nobody else makes or removes workspaces."""
    state = state_dir(root)
    state.mkdir(parents=True, exist_ok=True)
    with open(state / "runs.lock", "w") as lock:
        wait_for_lock(lock, LOCK_SECONDS, f"the workspaces in {state / 'runs'}")
        yield


def _dvc_config(main: Path, tree: Path) -> str:
    """The main checkout's cache and remotes by absolute path: relative ones mean another place in a worktree."""
    from dvc.config import Config

    from flows.repo.remotes import on_s3

    config = Config(str(main / ".dvc"), local_dvc_dir=str(main / ".dvc"))
    cache = config["cache"].get("dir") or str(main / ".dvc" / "cache")
    # beside the worktree, not in DVC's shared place: there it would stay for ever, one for each run
    lines = ["[core]", f"    site_cache_dir = {tree.parent / 'dvc'}"]
    lines += ["[cache]", f"    dir = {cache}", "    type = hardlink,symlink,copy"]
    moved = on_s3(tree, main / ".dvc")
    for name, remote in moved.items():
        lines += [f"['remote \"{name}\"']", *(f"    {key} = {value}" for key, value in remote.items())]
    for name, remote in config["remote"].items():
        if name not in moved and "://" not in remote["url"]:
            lines += [f"['remote \"{name}\"']", f"    url = {(main / '.dvc' / remote['url']).resolve()}"]
    return "\n".join(lines) + "\n"


def reconcile(root: Path) -> list[str]:
    """Remove what dead runs left: their worktrees, git's memory of them, locks of a killed git, temporary files; and
    all but the newest finished workspaces. How a run ended that could not be noted is noted now.

    Returns the ids of runs that died before they ended, and keeps them for `died`.
    """
    main, state = main_checkout(root), state_dir(root)
    with _alone(root):
        folders = sorted((state / "runs").iterdir(), reverse=True) if (state / "runs").is_dir() else []
        held = {folder: lock for folder in folders if (lock := take(folder, missing=True)) is not None}
        try:
            unfinished = [folder for folder in held if not (folder / "ended.json").is_file()]
            finished = [folder for folder in held if folder not in unfinished]
            for folder in finished:
                _note_ending(root, folder)
            for folder in unfinished:
                (state / "died").mkdir(exist_ok=True)
                (state / "died" / folder.name).touch()
                failpoint("workspace.died")
            for folder in unfinished + finished[KEEP:]:
                shutil.rmtree(folder, ignore_errors=True)
                failpoint("workspace.removed")
        finally:
            for lock in held.values():
                os.close(lock)
        _forget_worktrees(main, state / "runs")
    _free_refs(main)
    for name in SWEPT:
        sweep(state / name)
    sweep(state, ".*.tmp")
    return [folder.name for folder in unfinished]


def died(root: Path) -> list[str]:
    """Ids of runs that died and of which nobody was told yet."""
    folder = state_dir(root) / "died"
    return sorted(file.name for file in folder.iterdir()) if folder.is_dir() else []


def told(root: Path, run_ids: list[str]) -> None:
    """Whoever shows runs knows that these died."""
    for run_id in run_ids:
        (state_dir(root) / "died" / run_id).unlink(missing_ok=True)


def _note_ending(root: Path, folder: Path) -> None:
    """Mark the inputs of a finished run as seen: whoever started it was killed before it could."""
    with suppress(FileNotFoundError):
        key, ending = read_json(folder / "started.json")["key"], read_json(folder / "ended.json")
        if seen(root, key) is None:
            mark_seen(root, key, {"run_id": folder.name} | {k: ending[k] for k in ("outcome", "version", "sentence")})


def _forget_worktrees(main: Path, runs: Path) -> None:
    """Let git forget worktrees beneath `runs` that are gone. `git worktree prune` alone keeps those whose making was
    killed: git locks them until they are whole."""
    for entry in git(main, "worktree", "list", "--porcelain").split("\n\n"):
        path = Path(entry.splitlines()[0].removeprefix("worktree "))
        if path.is_relative_to(runs.resolve()) and not path.parent.exists():  # the folder of a living run is there
            git(main, "worktree", "remove", "--force", "--force", str(path))
    git(main, "worktree", "prune")


def _free_refs(main: Path) -> None:
    """Remove the locks that a killed git left on Evergreen's own refs: with one there, that ref could never move."""
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
        fcntl.flock(
            lock, fcntl.LOCK_SH | fcntl.LOCK_NB
        )  # shared: two that ask at once do not take each other for a run
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(lock)


def take(folder: Path, missing: bool = False) -> int | None:
    """Hold the workspace `folder` of an ended run, so that nothing removes it; the descriptor of the held lock, to be
    closed. None: a process holds it, or it is gone. missing: make the lock where its run died before it did."""
    try:
        lock = os.open(folder / "lock", os.O_RDWR | (os.O_CREAT if missing else 0), 0o644)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(lock).st_nlink:
            return lock
    except BlockingIOError:
        pass
    os.close(lock)  # held by another, or removed since it was opened
    return None


@contextmanager
def only_one(root: Path, key: str, say=print) -> Iterator[int]:
    """Wait for a run over the very same inputs, if there is one; then hold them. Yields the descriptor of the lock,
    for the run's process to inherit: it outlives whoever started it, and its end, whatever it is, frees them."""
    file = state_dir(root) / "seen" / f"{key}.lock"
    file.parent.mkdir(parents=True, exist_ok=True)
    lock = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("a run over these very inputs is under way: waiting for its end")
            wait_for_lock(lock, RUN_SECONDS, "these inputs")
        yield lock
    finally:
        os.close(lock)


def alive_runs(root: Path) -> Iterator[str]:
    """Ids of runs whose process lives."""
    runs = state_dir(root) / "runs"
    if runs.is_dir():
        yield from (folder.name for folder in sorted(runs.iterdir()) if _alive(folder))


def up_to_date(root: Path) -> tuple[str, dict, dict | None]:
    """(input key, tombstones, how the run over these inputs ended or None)."""
    releases = open_store(load_params(root / "params.yaml").store, root)
    tombstones = releases.tombstones()
    key = input_key(root, tombstones)
    return key, tombstones, seen(root, key)
