"""Runs that ended without a promotion, and the people who may promote them all the same.

A held run is kept whole: its bundle in the release store, its data and models in the DVC remote, its lock in a commit
under refs/evergreen/held/<run id>. So it can be approved long after its workspace is gone, and from another machine
(`git fetch <remote> 'refs/evergreen/held/*:refs/evergreen/held/*'`). A rejected run is only as old as its workspace.

    runs/<run id>.json in the store   {key, reason, by, at, outcome, sentence, version, verdict, bundle, rev, decisions}
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flows.publishing import registry
from flows.publishing.outcomes import Ending
from flows.publishing.publish import publish
from flows.publishing.registry import HELD
from flows.publishing.rollback import open_project
from flows.repo import run_inputs, workspace
from flows.repo.git import git
from flows.repo.push import dvc_push
from tasks.common.errors import EvergreenError
from tasks.common.failpoints import failpoint
from tasks.common.files import read_json, sha256_file
from tasks.common.paths import main_checkout, state_dir
from tasks.gate.verdict import GateVerdict
from tasks.releases.store import Pointer, PointerMoved, Releases

RACES = 10  # how often an approval is judged again because another run published first
MANIFEST = "artifacts/bundle/MANIFEST.json"


def record(releases: Releases, tree: Path, run_id: str, ending: Ending, rev: str | None = None) -> None:
    """Keep how the run in `tree` ended in the release store, for every machine to see."""
    started = tree.parent / "started.json"
    about = read_json(started) if started.is_file() else {}
    bundle = sha256_file(tree / MANIFEST) if (tree / MANIFEST).is_file() else None
    ended = {"at": _now(), "bundle": bundle, "rev": rev, "decisions": []}
    releases.put_run(run_id, about | ended | ending.model_dump(mode="json"))


def input_key(tree: Path) -> str | None:
    """The input key of the run in `tree`, as `evergreen retrain` noted it; None where it was started otherwise."""
    started = tree.parent / "started.json"
    return read_json(started).get("key") if started.is_file() else None


def ended(releases: Releases, key: str) -> dict[str, Any] | None:
    """How the newest run over the inputs `key` ended, on whatever machine: {run_id, outcome, version, sentence}."""
    runs = releases.runs(part=f"-{key[:6]}-")  # as workspace.new_run_id names them
    found = [{"run_id": run_id} | about for run_id, about in runs.items() if about.get("key") == key]
    return {name: found[-1].get(name) for name in ("run_id", "outcome", "version", "sentence")} if found else None


def keep(tree: Path, releases: Releases, name: str, run_id: str, sentence: str) -> str:
    """Make the held run in `tree` outlive its workspace; returns its commit. Raises EvergreenError."""
    bundle = releases.put_bundle(tree / "artifacts/bundle")
    releases.audit_bundle(bundle)
    failpoint("held.uploaded")
    dvc_push(tree)
    failpoint("held.pushed")
    message = f"Held: {name} of run {run_id}\n\n{sentence}"
    rev = registry.commit_apart(tree, message, bundle, f"{HELD}/{run_id}")
    failpoint("held.kept")
    return rev


def reconcile(root: Path, releases: Releases) -> list[str]:
    """Complete what killed runs and decisions left: a published run without its record, a decision that was carried
    out but not noted, a ref that holds a run nobody can approve. Returns what was done.

    To be called before `workspace.reconcile`: a dead run's workspace still says what it was started for.
    """
    main, done = main_checkout(root), []
    alive = set(workspace.alive_runs(main))
    history = {pointer.run_id: pointer for pointer in releases.history()}
    live = releases.live()
    if live is not None and live.run_id not in alive and (line := _complete_record(main, releases, live)):
        done.append(line)
    for ref in git(main, "for-each-ref", "--format=%(refname)", HELD).splitlines():
        run_id = ref.removeprefix(f"{HELD}/")
        if run_id in alive:
            continue
        if run_id in history and (line := _complete_record(main, releases, history[run_id])):
            done.append(line)
        run = releases.run(run_id)
        if run is None or run["outcome"] != "held":
            git(main, "update-ref", "-d", ref)
            done.append(f"let go of run {run_id}, which is {run['outcome'] if run else 'of a run that died'}")
    return done


def _complete_record(main: Path, releases: Releases, pointer: Pointer) -> str | None:
    """Note that the run of `pointer` was promoted, if its record does not say so."""
    run_id, run = pointer.run_id, releases.run(pointer.run_id)
    folder = state_dir(main) / "runs" / run_id
    if run is None:
        if not (folder / "started.json").is_file():  # a rollback, an adopted model, or a run of another machine
            return None
        verdict = read_json(folder / "verdict.json") if (folder / "verdict.json").is_file() else None
        about = {"outcome": "promoted", "sentence": pointer.why, "version": pointer.version, "verdict": verdict}
        run = read_json(folder / "started.json") | about
        run |= {"at": pointer.at.isoformat(timespec="seconds"), "bundle": pointer.bundle, "rev": None, "decisions": []}
    elif run["outcome"] in ("held", "rejected"):
        decision = {"how": "completed", "by": pointer.by, "why": pointer.why, "at": _now(), "version": pointer.version}
        sentence = f"{run['sentence']} Promoted since by {pointer.by}: {pointer.why}."
        run |= {"outcome": "promoted", "version": pointer.version, "sentence": sentence}
        run |= {"decisions": [*run["decisions"], decision | {"verdict": None}]}
    else:
        return None
    if run.get("key"):
        ended = {"outcome": "promoted", "version": pointer.version, "sentence": run["sentence"]}
        run_inputs.record_ending(main, run["key"], {"run_id": run_id} | ended)
    releases.put_run(run_id, run)
    return f"noted that run {run_id} was published as {pointer.version}"


def approve(root: Path, run_id: str, *, by: str, why: str = "") -> Pointer:
    """Publish the held run `run_id` if the gate still does not reject it against what is live now.

    Returns the new pointer, or the live one if it is this very model. Raises EvergreenError for a run that was not
    held, is gone, or is rejected today.
    """
    from flows.publishing.judge_run import judge_run
    from tasks.common.params import load_params

    params, releases = open_project(root)
    run = _find(releases, run_id)
    if run["outcome"] != "held":
        raise EvergreenError(_not_held(run_id, run))
    with _workspace(root, run_id, run) as tree:
        rule = load_params(tree / "params.yaml")
        for _ in range(RACES):
            champion = releases.live()
            if champion is not None and champion.bundle == run["bundle"]:
                return _promoted(root, releases, run_id, run, champion, "approved", by, why, None)
            verdict = judge_run(tree, rule, releases, champion)
            if verdict.outcome == "reject":
                against = champion.version if champion else "the bounds of a first model"
                raise EvergreenError(
                    f"run {run_id} was held, but against {against}, which counts now, the gate says: "
                    f'{verdict.sentence} If you know better: evergreen promote {run_id} --override --why "..."'
                )
            said = f"approved by {by}{f': {why}' if why else ''}; the gate: {verdict.sentence}"
            try:
                pointer = _publish(tree, releases, params.bundle.name, run_id, run, champion, said, by)
            except PointerMoved:
                continue
            return _promoted(root, releases, run_id, run, pointer, "approved", by, why, verdict)
    raise EvergreenError(f"the champion changed {RACES} times while run {run_id} was judged: approve it again")


def override(root: Path, run_id: str, *, by: str, why: str) -> Pointer:
    """Publish the held or rejected run `run_id` against the gate's word; who and why go into the pointer, the tags and
    the run's record. Returns the new pointer. Raises EvergreenError, and PointerMoved when a run published meanwhile.
    """
    if not why.strip():
        raise EvergreenError("an override needs its reason: --why says it, and it is kept with the version")
    params, releases = open_project(root)
    run = _find(releases, run_id)
    if run["outcome"] not in ("held", "rejected"):
        raise EvergreenError(_not_held(run_id, run))
    champion = releases.live()
    if champion is not None and champion.bundle == run["bundle"]:
        return _promoted(root, releases, run_id, run, champion, "override", by, why, None)
    with _workspace(root, run_id, run) as tree:
        said = f"override by {by}: {why}; the gate had said: {run['sentence']}"
        pointer = _publish(tree, releases, params.bundle.name, run_id, run, champion, said, by)
    return _promoted(root, releases, run_id, run, pointer, "override", by, why, None)


def _publish(
    tree: Path, releases: Releases, name: str, run_id: str, run: dict, champion: Pointer | None, why: str, by: str
) -> Pointer:
    if (found := sha256_file(tree / MANIFEST)) != run["bundle"]:
        raise EvergreenError(f"{tree / 'artifacts/bundle'} is bundle {found}, run {run_id} made {run['bundle']}")
    return publish(
        tree,
        releases,
        name=name,
        run_id=run_id,
        bundle_dir=tree / "artifacts/bundle",
        why=why,
        by=by,
        expected=champion,
        push=lambda: dvc_push(tree),
    )


def _promoted(
    root: Path,
    releases: Releases,
    run_id: str,
    run: dict[str, Any],
    pointer: Pointer,
    how: str,
    by: str,
    why: str,
    verdict: GateVerdict | None,
) -> Pointer:
    """Note the decision where it is looked for, and let go of what held the run."""
    decision = {
        "how": how,
        "by": by,
        "why": why,
        "at": _now(),
        "version": pointer.version,
        "verdict": verdict.model_dump(mode="json") if verdict else None,
    }
    sentence = f"{run['sentence']} Promoted since ({how}) by {by}{f': {why}' if why else ''}."
    ended = {"outcome": "promoted", "version": pointer.version, "sentence": sentence}
    failpoint("held.published")
    main = main_checkout(root)
    if run.get("key"):
        run_inputs.record_ending(main, run["key"], {"run_id": run_id} | ended)
    releases.put_run(run_id, run | ended | {"decisions": [*run["decisions"], decision]})
    failpoint("held.noted")
    if ref := git(main, "for-each-ref", "--format=%(refname)", f"{HELD}/{run_id}"):
        git(main, "update-ref", "-d", ref)  # the version's own tag keeps it from now on; last, so `reconcile` finds it
    failpoint("held.released")
    return pointer


def _find(releases: Releases, run_id: str) -> dict[str, Any]:
    """The record of run `run_id`. Raises EvergreenError naming the runs that could be meant."""
    runs = releases.runs()
    if run_id in runs:
        return runs[run_id]
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
    return f"run {run_id} ended as {run['outcome']}, it made nothing that could be published: {run['sentence']}"


@contextmanager
def _workspace(root: Path, run_id: str, run: dict[str, Any]) -> Iterator[Path]:
    """The run's worktree with its data, models and bundle: its own if it is still there, else one made for the time.

    Raises EvergreenError for a run that left neither a workspace nor a commit.
    """
    main = main_checkout(root)
    folder = state_dir(main) / "runs" / run_id
    if (folder / "tree" / MANIFEST).is_file() and (lock := workspace.lock_if_ended(folder)) is not None:
        try:
            yield folder / "tree"
        finally:
            os.close(lock)
        return
    rev = run.get("rev")
    if not rev:
        raise EvergreenError(
            f"the workspace of run {run_id} is gone, and a rejected run is not kept anywhere else: "
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
        yield tree
    finally:
        shutil.rmtree(tree.parent, ignore_errors=True)
        git(main, "worktree", "prune")
        os.close(lock)


def _check_out(tree: Path) -> None:
    """Everything that dvc.lock and data.dvc in `tree` name, from the cache, else from the remote."""
    from dvc.exceptions import DvcException

    from flows.repo.pipeline import open_repo

    repo = open_repo(tree)
    try:
        repo.pull(force=True)
    except DvcException as error:
        raise EvergreenError(f"the run's data and models cannot be restored: {error}") from error
    finally:
        repo.close()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
