"""The record of each run in the release store, and the commit that outlives a held run's workspace.

    runs/<run id>.json in the store   {key, reason, by, at, outcome, sentence, version, verdict, bundle, rev, decisions,
                                       accepted: ids of the batches that validate accepted, evergreen: its version,
                                       lock: sha256 of requirements.lock, steps and flow_run: see flows.repo.progress,
                                       schema, and what flows.publishing.decisions adds: comments, preview}
    runs/<run id>/sbom.cdx            what software made a promoted or held run (CycloneDX)

A held run is stored completely: its bundle in the release store, its data and models in the DVC remote, its dvc.lock in
a commit under refs/evergreen/held/<run id>. So it can be approved long after its workspace is gone, and from another
machine (`git fetch <remote> 'refs/evergreen/held/*:refs/evergreen/held/*'`). A rejected run lasts only as long as its
workspace.
"""

import json
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flows.publishing import registry
from flows.publishing.outcomes import Ending
from flows.publishing.registry import HELD
from flows.publishing.rollback import batches_at
from flows.repo import run_inputs, workspace
from flows.repo.git import git
from flows.repo.objects import ObjectLost, open_objects
from flows.repo.progress import for_record
from flows.repo.push import dvc_push
from tasks.common.failpoints import failpoint
from tasks.common.files import read_json, sha256_file
from tasks.common.paths import main_checkout, state_dir
from tasks.common.rebuildable import expect, read_rebuildable
from tasks.common.version import VERSION
from tasks.releases import sbom
from tasks.releases.pointer import Pointer
from tasks.releases.store import Releases

MANIFEST = "artifacts/bundle/MANIFEST.json"


def record(releases: Releases, tree: Path, run_id: str, ending: Ending, rev: str | None = None) -> None:
    """Record in the release store how the run in `tree` ended, for every machine to see."""
    about = workspace.read_started(tree.parent) or {}
    bundle = sha256_file(tree / MANIFEST) if (tree / MANIFEST).is_file() else None
    ended = {"at": now(), "bundle": bundle, "rev": rev, "decisions": [], "evergreen": VERSION}
    ended |= {"accepted": _accepted(tree)} | for_record(tree.parent)
    lock = tree / "requirements.lock"
    ended["lock"] = sha256_file(lock) if lock.is_file() else None
    if ending.outcome in ("promoted", "held") and releases.store.read(key := f"runs/{run_id}/{sbom.NAME}") is None:
        made = sbom.sbom(datetime.now(UTC), ended["lock"])
        releases.store.create(key, json.dumps(made, indent=1, sort_keys=True).encode())
    releases.put_run(run_id, about | ended | ending.model_dump(mode="json"))


def _accepted(tree: Path) -> list[str]:
    """The batches that the stage validate has accepted in the workspace `tree`."""
    file = tree / "artifacts/validate/result.json"
    found = read_json(file) if file.is_file() else {"passed": False}
    return sorted(about["batch"] for about in found["batches"] if about["judged"]) if found["passed"] else []


def was_accepted(releases: Releases, tree: Path, batch: str) -> bool:
    """Did an earlier run on any machine accept `batch`? The live version's data count too: older records say less."""
    if any(batch in about.get("accepted", ()) for about in releases.runs().values()):
        return True
    live, main = releases.live(), main_checkout(tree)
    if live is None or not registry.has_commit(main, live.git_rev):
        return False
    with open_objects(main) as objects, suppress(ObjectLost):
        return any(manifest.batch == batch for manifest in batches_at(main, objects, live.git_rev))
    return False


def recorded_input_key(tree: Path) -> str | None:
    """The input key of the run in `tree`, as `evergreen retrain` wrote it; None if the run was started otherwise."""
    return (workspace.read_started(tree.parent) or {}).get("key")


def latest_ending(releases: Releases, key: str) -> dict[str, Any] | None:
    """How the newest run over the inputs `key` ended, on any machine: {run_id, outcome, version, sentence}."""
    runs = releases.runs(part=f"-{key[:6]}-")  # as workspace.new_run_id names them
    found = [{"run_id": run_id} | about for run_id, about in runs.items() if about.get("key") == key]
    return {name: found[-1].get(name) for name in ("run_id", "outcome", "version", "sentence")} if found else None


def preserve_held(tree: Path, releases: Releases, name: str, run_id: str, sentence: str) -> str:
    """Store the held run in `tree` so that it outlives its workspace; returns its commit. Raises EvergreenError."""
    bundle = releases.put_bundle(tree / "artifacts/bundle")
    releases.audit_bundle(bundle)
    failpoint("held.uploaded")
    dvc_push(tree)
    failpoint("held.pushed")
    message = f"Held: {name} of run {run_id}\n\n{sentence}"
    rev = registry.commit_held(tree, message, bundle, f"{HELD}/{run_id}")
    failpoint("held.kept")
    return rev


def reconcile(root: Path, releases: Releases) -> list[str]:
    """Complete what killed runs and decisions left; returns what was done.

    They leave a published run without its record, a decision that was carried out and not recorded, or a ref of a run
    that no person can approve. Call this before `workspace.reconcile`: a dead run's workspace still says why it was
    started.
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
            ended = f"is {run['outcome']}" if run else "died"
            done.append(f"deleted the ref of run {run_id}, which {ended}")
    return done


def _complete_record(main: Path, releases: Releases, pointer: Pointer) -> str | None:
    """Record that the run of `pointer` was promoted, if its record does not say so."""
    run_id, known = pointer.run_id, releases.run(pointer.run_id)
    run = known
    folder = state_dir(main) / "runs" / run_id
    if run is None:
        started = workspace.read_started(folder)
        if started is None:  # a rollback, an adopted model, or a run of another machine
            return None
        verdict = read_rebuildable(folder / "verdict.json", lambda about: expect(about, dict), "it is left out")
        about = {"outcome": "promoted", "sentence": pointer.why, "version": pointer.version, "verdict": verdict}
        run = started | about
        run |= {"at": pointer.at.isoformat(timespec="seconds"), "bundle": pointer.bundle, "rev": None, "decisions": []}
    elif run["outcome"] in ("held", "rejected"):
        decision = {"how": "completed", "by": pointer.by, "why": pointer.why, "at": now(), "version": pointer.version}
        sentence = f"{run['sentence']} Promoted since by {pointer.by}: {pointer.why}."
        run |= {"outcome": "promoted", "version": pointer.version, "sentence": sentence}
        run |= {"decisions": [*run["decisions"], decision | {"verdict": None}]}
    else:
        return None
    if run.get("key"):
        ended = {"outcome": "promoted", "version": pointer.version, "sentence": run["sentence"]}
        run_inputs.record_ending(main, run["key"], {"run_id": run_id} | ended)
    if known is None:
        releases.put_run(run_id, run)
    else:  # a comment that came meanwhile stays
        changed = {name: run[name] for name in ("outcome", "version", "sentence", "decisions")}
        releases.change_run(run_id, lambda record: record | changed)
    return f"recorded that run {run_id} was published as {pointer.version}"


def now() -> str:
    """The time for a run's record."""
    return datetime.now(UTC).isoformat(timespec="seconds")
