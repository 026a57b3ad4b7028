"""A recorded run, and the worktree with what it made."""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.publishing import registry
from flows.publishing.history import open_project
from flows.publishing.registry import HELD
from flows.publishing.run_records import MANIFEST
from flows.repo import workspace
from flows.repo.git import git
from tasks.common.errors import EvergreenError
from tasks.common.paths import main_checkout, state_dir
from tasks.releases.pointer import Pointer
from tasks.releases.store import Releases

RUN_ID = re.compile(r"[0-9A-Za-z][0-9A-Za-z_-]{0,99}")


@dataclass(frozen=True)
class RecordedRun:
    """A recorded run of the project at `root`, and its record in the release store."""

    root: Path
    releases: Releases
    name: str  # bundle.name in params.yaml
    run_id: str
    record: dict[str, Any]

    def is_live(self, champion: Pointer | None) -> bool:
        return champion is not None and champion.bundle == self.record["bundle"]


def open_run(root: Path, run_id: str) -> RecordedRun:
    """Run `run_id` with its record. Raises EvergreenError naming the runs that can be decided about."""
    params, releases = open_project(root)
    record = releases.run(run_id) if RUN_ID.fullmatch(run_id) else None
    if record is not None:
        return RecordedRun(root, releases, params.bundle.name, run_id, {"decisions": []} | record)
    runs = releases.runs()
    waiting = [f"{name} ({run['outcome']})" for name, run in runs.items() if run["outcome"] in ("held", "rejected")]
    raise EvergreenError(f"no run {run_id!r} is recorded; held or rejected: {', '.join(waiting[-10:]) or 'none'}")


def not_held(run_id: str, run: dict[str, Any]) -> str:
    """Why the run with record `run` cannot be approved or refused."""
    if run["outcome"] == "promoted":
        return f"run {run_id} is published already, as {run['version']}"
    if run["outcome"] == "rejected":
        refusal = refusal_in(run)
        said = f"refused by {refusal['by']}: {refusal['why']}." if refusal else f"rejected: {run['sentence']}"
        return (
            f"run {run_id} was {said} Approval is for held runs; if you know better than the "
            f'gate: evergreen promote {run_id} --override --why "..."'
        )
    return f"run {run_id} ended as {run['outcome']} and made nothing that can be published: {run['sentence']}"


def refusal_in(record: dict[str, Any]) -> dict[str, Any] | None:
    """The decision by which a person refused the run of `record`; None if none did."""
    return next((entry for entry in reversed(record.get("decisions", ())) if entry["how"] == "refused"), None)


def delete_ref(run: RecordedRun) -> None:
    """Delete the ref that keeps the commit of a held run."""
    main = main_checkout(run.root)
    if ref := git(main, "for-each-ref", "--format=%(refname)", f"{HELD}/{run.run_id}"):
        git(main, "update-ref", "-d", ref)


@contextmanager
def worktree(run: RecordedRun) -> Iterator[Path]:
    """The run's worktree with its data, models and bundle: its own if it still exists, else a temporary one.

    Raises EvergreenError for a run that left neither a workspace nor a commit.
    """
    main, run_id, rev = main_checkout(run.root), run.run_id, run.record.get("rev")
    folder = state_dir(main) / "runs" / run_id
    if (folder / "tree" / MANIFEST).is_file() and (lock := workspace.lock_if_ended(folder)) is not None:
        try:
            hash_outs(folder / "tree")
            yield folder / "tree"
        finally:
            os.close(lock)
        return
    if not rev:
        raise EvergreenError(
            f"the workspace of run {run_id} is gone, and a rejected run is not stored anywhere else: "
            "`evergreen retrain --force` makes the model again"
        )
    if not registry.has_commit(main, rev):
        raise EvergreenError(
            f"this repository lacks commit {rev[:12]} of run {run_id}: fetch it from where it ran "
            "(there: git push <remote> 'refs/evergreen/held/*'; "
            "here: git fetch <remote> 'refs/evergreen/held/*:refs/evergreen/held/*')"
        )
    tree, lock = workspace.create(main, f"{run_id}-{os.getpid()}", {}, rev)
    try:
        check_out(tree)
        hash_outs(tree)
        yield tree
    finally:
        shutil.rmtree(tree.parent, ignore_errors=True)
        git(main, "worktree", "prune")
        os.close(lock)


def hash_outs(tree: Path) -> None:
    """Hash what the run made, and replace damaged files. Raises DamagedFile if no undamaged copy is left."""
    from flows.repo.damage import checkout_whole
    from flows.repo.pipeline import open_repo

    with closing(open_repo(tree)) as repo:
        checkout_whole(repo)


def check_out(tree: Path) -> None:
    """Restore everything that dvc.lock and data.dvc in `tree` record, from the cache, else from the remote."""
    from dvc.exceptions import DvcException

    from flows.repo.pipeline import open_repo

    repo = open_repo(tree)
    try:
        repo.pull(force=True)
    except DvcException as error:
        raise EvergreenError(f"the run's data and models cannot be restored: {error}") from error
    finally:
        repo.close()
