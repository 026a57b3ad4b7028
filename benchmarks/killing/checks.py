"""What every scenario checks after a kill, and what the next start completes."""

import hashlib
from pathlib import Path

from flows.publishing import run_records
from flows.publishing.publish import reconcile
from flows.repo import workspace
from tests.support import versions_project

NAME = "classifier"


def check(held: bool, what: str) -> None:
    """Raise AssertionError, also under `python -O`."""
    if not held:
        raise AssertionError(what)


def no_leftovers(root: Path) -> None:
    """Check that no temporary file, no workspace of a dead run and no stale git worktree is left."""
    left = [path for path in root.rglob(".*.tmp") if ".git" not in path.parts]
    left += list((root / ".evergreen/releases/.tmp").glob("*"))
    left += [path for path in root.glob(".evergreen/runs/*") if not (path / "ended.json").is_file()]
    check(not left, f"left behind: {left}")
    if (root / ".git").is_dir():
        check(len(list(root.glob(".git/worktrees/*"))) == len(list(root.glob(".evergreen/runs/*"))), "git's worktrees")


def objects_are_whole(root: Path) -> None:
    """Check that every object of DVC's cache is what its name says."""
    for file in (root / ".dvc/cache/files/md5").rglob("*"):
        if file.is_file() and not file.name.endswith(".dir"):
            found = hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest()
            check(file.parent.name + file.name == found, f"{file} in the cache is torn")


def start(root: Path) -> None:
    """Do what `evergreen retrain` completes before it begins."""
    releases = versions_project.store(root)
    reconcile(root, releases, NAME)
    run_records.reconcile(root, releases)
    workspace.reconcile(root)
