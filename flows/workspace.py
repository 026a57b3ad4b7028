"""One workspace per run: a detached git worktree of the user's HEAD that shares DVC's cache and remote.

    .evergreen/runs/<run id>/lock       held (flock) by the run's process while it lives
    .evergreen/runs/<run id>/tree/      the worktree; kept for the newest runs, so that `dvc status` can be asked
    .evergreen/seen/<input key>.json    how the run over these inputs ended: the up-to-date check

The user's checkout is never touched: not its files, not its index, not its HEAD.
"""

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from flows.git import git
from tasks.errors import EvergreenError
from tasks.files import atomic_path, read_json, write_json
from tasks.paths import main_checkout, state_dir

INPUTS = ("data.dvc", "params.yaml", "dvc.yaml", "tombstones.json", "tasks")  # what decides a run's result
CODE = ("flows", "serving", "monitoring")
KEEP = 3  # finished workspaces that stay


def input_key(root: Path, tombstones: dict) -> str:
    """Names everything a run's result depends on: committed data, params, pipeline code, tombstones.

    Raises EvergreenError when HEAD lacks one of them (no data ingested yet, say).
    """
    listing = git(root, "ls-tree", "HEAD", "--", *INPUTS)
    found = {line.split("\t")[1] for line in listing.splitlines()}
    if "data.dvc" not in found:
        raise EvergreenError("HEAD has no data.dvc: run `evergreen ingest FOLDER` first (it commits data.dvc)")
    if missing := set(INPUTS) - found:
        raise EvergreenError(f"HEAD lacks {', '.join(sorted(missing))}: commit them first")
    return hashlib.sha256(f"{listing}\n{sorted(tombstones)}".encode()).hexdigest()[:24]


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
    folder.mkdir(parents=True)
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    fcntl.flock(lock, fcntl.LOCK_EX)
    tree = folder / "tree"
    git(main, "-c", "core.hooksPath=/dev/null", "worktree", "add", "--detach", "--quiet", str(tree), rev)
    with atomic_path(tree / ".dvc" / "config.local") as temporary:
        temporary.write_text(_dvc_config(main, tree))
    committed = read_json(tree / "tombstones.json")
    if committed.keys() != (merged := {**tombstones, **committed}).keys():
        write_json(tree / "tombstones.json", merged)
    return tree, lock


def _dvc_config(main: Path, tree: Path) -> str:
    """The main checkout's cache and remotes by absolute path: relative ones mean another place in a worktree."""
    from dvc.config import Config

    from flows.dvc_remote import on_s3

    config = Config(str(main / ".dvc"), local_dvc_dir=str(main / ".dvc"))
    cache = config["cache"].get("dir") or str(main / ".dvc" / "cache")
    lines = ["[cache]", f"    dir = {cache}", "    type = hardlink,symlink,copy"]
    moved = on_s3(tree, config)
    for name, remote in moved.items():
        lines += [f"['remote \"{name}\"']", *(f"    {key} = {value}" for key, value in remote.items())]
    for name, remote in config["remote"].items():
        if name not in moved and "://" not in remote["url"]:
            lines += [f"['remote \"{name}\"']", f"    url = {(main / '.dvc' / remote['url']).resolve()}"]
    return "\n".join(lines) + "\n"


def reconcile(root: Path) -> list[str]:
    """Remove what dead runs left: their worktrees, and all but the newest finished workspaces.

    Returns the ids of runs that died before they ended.
    """
    main = main_checkout(root)
    runs = state_dir(root) / "runs"
    if not runs.is_dir():
        return []
    dead = [folder for folder in sorted(runs.iterdir(), reverse=True) if not _alive(folder)]
    unfinished = [folder for folder in dead if not (folder / "ended.json").is_file()]
    finished = [folder for folder in dead if (folder / "ended.json").is_file()]
    for folder in unfinished + finished[KEEP:]:
        shutil.rmtree(folder, ignore_errors=True)
    git(main, "worktree", "prune")
    return [folder.name for folder in unfinished]


def _alive(folder: Path) -> bool:
    try:
        lock = os.open(folder / "lock", os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(lock)


def take(folder: Path) -> int | None:
    """Hold the workspace `folder` of an ended run, so that nothing removes it; the descriptor of the held lock, to be
    closed. None: a process holds it, or it is gone."""
    try:
        lock = os.open(folder / "lock", os.O_RDWR)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return lock
    except BlockingIOError:
        os.close(lock)
        return None


def alive_runs(root: Path) -> Iterator[str]:
    """Ids of runs whose process lives."""
    runs = state_dir(root) / "runs"
    if runs.is_dir():
        yield from (folder.name for folder in sorted(runs.iterdir()) if _alive(folder))
