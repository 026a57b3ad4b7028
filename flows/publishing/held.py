"""`evergreen approve` and `promote --override`: a person decides about a run.

Held runs were not promoted automatically and wait for a person's approval. flows.publishing.run_records says how they
are stored.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.publishing import registry
from flows.publishing.history import open_project
from flows.publishing.publish import Publication, publish
from flows.publishing.registry import HELD
from flows.publishing.run_records import MANIFEST, now
from flows.repo import run_inputs, workspace
from flows.repo.git import git
from tasks.common.errors import EvergreenError
from tasks.common.failpoints import failpoint
from tasks.common.files import sha256_file
from tasks.common.paths import main_checkout, state_dir
from tasks.gate.verdict import GateVerdict
from tasks.releases.pointer import Pointer
from tasks.releases.store import PointerMoved, Releases

RACES = 10  # how often an approval is judged again because another run published first


@dataclass(frozen=True)
class _Run:
    """A recorded run of the project at `root`, and its record in the release store."""

    root: Path
    releases: Releases
    name: str  # bundle.name in params.yaml
    run_id: str
    record: dict[str, Any]

    def is_live(self, champion: Pointer | None) -> bool:
        return champion is not None and champion.bundle == self.record["bundle"]


@dataclass(frozen=True)
class _Decision:
    """Who decided what, and why."""

    how: str  # "approved" or "override"
    by: str
    why: str
    verdict: GateVerdict | None = None  # of an approval: the gate's verdict against the champion of that moment


def approve(root: Path, run_id: str, *, by: str, why: str = "") -> Pointer:
    """Publish the held run `run_id`, unless the gate rejects it against what is live now.

    Returns the new pointer, or the live one if it is this same model. Raises EvergreenError for a run that was not
    held, is gone, or is rejected now.
    """
    from flows.publishing.judge_run import judge_run
    from tasks.common.params import load_params

    run = _open_run(root, run_id)
    if run.record["outcome"] != "held":
        raise EvergreenError(_not_held(run_id, run.record))
    with _workspace(run) as tree:
        params = load_params(tree / "params.yaml")
        for _ in range(RACES):
            champion = run.releases.live()
            if run.is_live(champion):
                return _record_promotion(run, champion, _Decision("approved", by, why))
            verdict = judge_run(tree, params, run.releases, champion)
            if verdict.outcome == "reject":
                against = champion.version if champion else "the bounds of a first model"
                raise EvergreenError(
                    f"run {run_id} was held, but against {against}, which counts now, the gate says: "
                    f'{verdict.sentence} If you know better: evergreen promote {run_id} --override --why "..."'
                )
            said = f"approved by {by}{f': {why}' if why else ''}; the gate: {verdict.sentence}"
            try:
                pointer = _publish(run, tree, champion, said, by)
            except PointerMoved:
                continue
            return _record_promotion(run, pointer, _Decision("approved", by, why, verdict))
    raise EvergreenError(f"the champion changed {RACES} times while run {run_id} was judged: approve it again")


def override(root: Path, run_id: str, *, by: str, why: str) -> Pointer:
    """Publish the held or rejected run `run_id` against the gate's verdict; returns the new pointer.

    The pointer, the tags and the run's record say who did it and why. Raises EvergreenError, and PointerMoved if
    another run publishes first.
    """
    if not why.strip():
        raise EvergreenError("an override needs a reason: give it with --why; it is stored with the version")
    run = _open_run(root, run_id)
    if run.record["outcome"] not in ("held", "rejected"):
        raise EvergreenError(_not_held(run_id, run.record))
    champion = run.releases.live()
    if run.is_live(champion):
        return _record_promotion(run, champion, _Decision("override", by, why))
    with _workspace(run) as tree:
        said = f"override by {by}: {why}; the gate had said: {run.record['sentence']}"
        pointer = _publish(run, tree, champion, said, by)
    return _record_promotion(run, pointer, _Decision("override", by, why))


def _publish(run: _Run, tree: Path, champion: Pointer | None, why: str, by: str) -> Pointer:
    if (found := sha256_file(tree / MANIFEST)) != run.record["bundle"]:
        raise EvergreenError(
            f"{tree / 'artifacts/bundle'} is bundle {found}, run {run.run_id} made {run.record['bundle']}"
        )
    new = Publication(worktree=tree, name=run.name, run_id=run.run_id, why=why, by=by)
    return publish(new, run.releases, champion)


def _record_promotion(run: _Run, pointer: Pointer, decision: _Decision) -> Pointer:
    """Write the decision to the run's record and the up-to-date check, then delete the ref of the held run."""
    entry = {
        "how": decision.how,
        "by": decision.by,
        "why": decision.why,
        "at": now(),
        "version": pointer.version,
        "verdict": decision.verdict.model_dump(mode="json") if decision.verdict else None,
    }
    said = f"({decision.how}) by {decision.by}{f': {decision.why}' if decision.why else ''}"
    sentence = f"{run.record['sentence']} Promoted since {said}."
    ended = {"outcome": "promoted", "version": pointer.version, "sentence": sentence}
    failpoint("held.published")
    main = main_checkout(run.root)
    if run.record.get("key"):
        run_inputs.record_ending(main, run.record["key"], {"run_id": run.run_id} | ended)
    run.releases.put_run(run.run_id, run.record | ended | {"decisions": [*run.record["decisions"], entry]})
    failpoint("held.noted")
    if ref := git(main, "for-each-ref", "--format=%(refname)", f"{HELD}/{run.run_id}"):
        # last, so that `run_records.reconcile` finds the ref after a kill; the version's tag keeps the commit now
        git(main, "update-ref", "-d", ref)
    failpoint("held.released")
    return pointer


def _open_run(root: Path, run_id: str) -> _Run:
    """Run `run_id` with its record. Raises EvergreenError naming the runs that can be decided about."""
    params, releases = open_project(root)
    runs = releases.runs()
    if run_id in runs:
        return _Run(root, releases, params.bundle.name, run_id, runs[run_id])
    waiting = [f"{name} ({run['outcome']})" for name, run in runs.items() if run["outcome"] in ("held", "rejected")]
    raise EvergreenError(f"no run {run_id!r} is recorded; held or rejected: {', '.join(waiting[-10:]) or 'none'}")


def _not_held(run_id: str, run: dict[str, Any]) -> str:
    if run["outcome"] == "promoted":
        return f"run {run_id} is published already, as {run['version']}"
    if run["outcome"] == "rejected":
        return (
            f"run {run_id} was rejected: {run['sentence']} Approval is for held runs; if you know better than the "
            f'gate: evergreen promote {run_id} --override --why "..."'
        )
    return f"run {run_id} ended as {run['outcome']} and made nothing that can be published: {run['sentence']}"


@contextmanager
def _workspace(run: _Run) -> Iterator[Path]:
    """The run's worktree with its data, models and bundle: its own if it still exists, else a temporary one.

    Raises EvergreenError for a run that left neither a workspace nor a commit.
    """
    main, run_id, rev = main_checkout(run.root), run.run_id, run.record.get("rev")
    folder = state_dir(main) / "runs" / run_id
    if (folder / "tree" / MANIFEST).is_file() and (lock := workspace.lock_if_ended(folder)) is not None:
        try:
            _hash(folder / "tree")
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
        _check_out(tree)
        _hash(tree)
        yield tree
    finally:
        shutil.rmtree(tree.parent, ignore_errors=True)
        git(main, "worktree", "prune")
        os.close(lock)


def _hash(tree: Path) -> None:
    """Hash what the run made, and replace damaged files. Raises DamagedFile if no undamaged copy is left."""
    from flows.repo.damage import checkout_whole
    from flows.repo.pipeline import open_repo

    with closing(open_repo(tree)) as repo:
        checkout_whole(repo)


def _check_out(tree: Path) -> None:
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
