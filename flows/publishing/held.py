"""`evergreen approve` and `promote --override`: a person decides about a run.

Held runs were not promoted automatically and wait for a person's approval. flows.publishing.run_records says how they
are stored.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.publishing.publish import Publication, publish
from flows.publishing.recorded_run import RecordedRun, delete_ref, not_held, open_run, worktree
from flows.publishing.run_records import MANIFEST, now
from flows.repo import run_inputs
from tasks.common.errors import EvergreenError
from tasks.common.failpoints import failpoint
from tasks.common.files import sha256_file
from tasks.common.paths import main_checkout
from tasks.gate.verdict import GateVerdict
from tasks.releases.pointer import Pointer
from tasks.releases.store import PointerMoved

RACES = 10  # how often an approval is judged again because another run published first


@dataclass(frozen=True)
class _Decision:
    """Who decided what, and why."""

    how: str  # "approved", "override" or "rollout"
    by: str
    why: str
    verdict: GateVerdict | None = None  # of an approval: the gate's verdict against the champion of that moment


def approve(root: Path, run_id: str, *, by: str, why: str = "") -> Pointer:
    """Publish the held run `run_id`, unless the gate rejects it against what is live now.

    Returns the new pointer, or the live one if it is this same model. Raises EvergreenError for a run that was not
    held, is gone, or is rejected now.
    """
    from flows.publishing.judge_run import judge_run, with_floors
    from tasks.common.params import load_params

    run = open_run(root, run_id)
    if run.record["outcome"] != "held":
        raise EvergreenError(not_held(run_id, run.record))
    with worktree(run) as tree:
        params = with_floors(load_params(tree / "params.yaml"), load_params(root / "params.yaml").gate)
        for _ in range(RACES):
            champion = run.releases.live()
            if run.is_live(champion):
                return _record_promotion(run, champion, _Decision("approved", by, why))
            verdict = judge_run(tree, params, run.releases, champion, run=run_id, by=by, how="approval")
            if verdict.outcome == "reject":
                against = champion.version if champion else "the bounds of a first model"
                raise EvergreenError(
                    f"run {run_id} was held, but against {against}, which counts now, the gate says: "
                    f'{verdict.sentence} If you know better: evergreen promote {run_id} --override --why "..."'
                )
            said = f"approved by {by}{f': {why}' if why else ''}; the gate: {verdict.sentence}"
            if (record := run.releases.run(run_id) or run.record)["outcome"] == "rejected":  # by a person, meanwhile
                raise EvergreenError(not_held(run_id, record))
            try:
                pointer = _publish(run, tree, champion, said, by)
            except PointerMoved:
                continue
            return _record_promotion(run, pointer, _Decision("approved", by, why, verdict))
    raise EvergreenError(f"the champion changed {RACES} times while run {run_id} was judged: approve it again")


def promote_rolled_out(root: Path, run_id: str, *, by: str, why: str, automatic: bool) -> Pointer:
    """Publish the held run `run_id` after its rollout; returns the new pointer, or the live one if it is this model.

    automatic: only if the gate promotes it; else also if the gate holds it, as a person who began its rollout may. The
    gate's verdict on the run stands unless the champion or the gate's settings have changed since. Raises
    EvergreenError, and PointerMoved if another run publishes first.
    """
    from flows.publishing.judge_run import judge_run, with_floors
    from tasks.common.params import load_params

    run = open_run(root, run_id)
    champion = run.releases.live()
    if run.is_live(champion):
        return _record_promotion(run, champion, _Decision("rollout", by, why))
    if run.record["outcome"] != "held":
        raise EvergreenError(not_held(run_id, run.record))
    with worktree(run) as tree:
        params, today = load_params(tree / "params.yaml"), load_params(root / "params.yaml").gate
        verdict = GateVerdict.model_validate(found) if (found := run.record.get("verdict")) else None
        if verdict is None or verdict.champion != (champion and champion.version) or params.gate != today:
            params = with_floors(params, today)
            verdict = judge_run(tree, params, run.releases, champion, run=run_id, by=by, how="approval")
        if verdict.outcome == "reject" or (automatic and verdict.outcome != "promote"):
            raise EvergreenError(f"the gate does not promote run {run_id}: {verdict.sentence}")
        pointer = _publish(run, tree, champion, f"{why}; the gate: {verdict.sentence}", by)
    return _record_promotion(run, pointer, _Decision("rollout", by, why, verdict))


def override(root: Path, run_id: str, *, by: str, why: str) -> Pointer:
    """Publish the held or rejected run `run_id` against the gate's verdict; returns the new pointer.

    The pointer, the tags and the run's record say who did it and why. Raises EvergreenError, and PointerMoved if
    another run publishes first.
    """
    if not why.strip():
        raise EvergreenError("an override needs a reason: give it with --why; it is stored with the version")
    run = open_run(root, run_id)
    if run.record["outcome"] not in ("held", "rejected"):
        raise EvergreenError(not_held(run_id, run.record))
    champion = run.releases.live()
    if run.is_live(champion):
        return _record_promotion(run, champion, _Decision("override", by, why))
    with worktree(run) as tree:
        said = f"override by {by}: {why}; the gate had said: {run.record['sentence']}"
        pointer = _publish(run, tree, champion, said, by)
    return _record_promotion(run, pointer, _Decision("override", by, why))


def _publish(run: RecordedRun, tree: Path, champion: Pointer | None, why: str, by: str) -> Pointer:
    if (found := sha256_file(tree / MANIFEST)) != run.record["bundle"]:
        raise EvergreenError(
            f"{tree / 'artifacts/bundle'} is bundle {found}, run {run.run_id} made {run.record['bundle']}"
        )
    new = Publication(worktree=tree, name=run.name, run_id=run.run_id, why=why, by=by)
    return publish(new, run.releases, champion)


def _record_promotion(run: RecordedRun, pointer: Pointer, decision: _Decision) -> Pointer:
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

    def promoted(record: dict[str, Any]) -> dict[str, Any]:
        if record["outcome"] == "promoted":
            return record  # another process completed it
        ended = {"outcome": "promoted", "version": pointer.version}
        ended["sentence"] = f"{record['sentence']} Promoted since {said}."
        return record | ended | {"decisions": [*record.get("decisions", []), entry]}

    failpoint("held.published")
    record = promoted(run.record)
    if record.get("key"):
        ended = {name: record[name] for name in ("outcome", "version", "sentence")}
        run_inputs.record_ending(main_checkout(run.root), record["key"], {"run_id": run.run_id} | ended)
    run.releases.change_run(run.run_id, promoted)
    failpoint("held.noted")
    delete_ref(run)  # last, so that `run_records.reconcile` finds it after a kill; the version's tag keeps the commit
    failpoint("held.released")
    return pointer
