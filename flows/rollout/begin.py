"""Begin a rollout: a held run's model answers unseen, or the first share of the traffic.

A run that passes the gate under release.strategy shadow or canary is held with `rollout` in its record. Then it begins
here: at once, or once the rollout before it has ended. Its version is reserved; the tag comes with the promotion.
"""

from datetime import UTC, datetime
from pathlib import Path

from flows.publishing import registry
from flows.publishing.decisions import preview
from flows.publishing.history import open_project
from flows.publishing.recorded_run import not_held, open_run
from tasks.common.errors import EvergreenError
from tasks.common.failpoints import failpoint
from tasks.common.params import ReleaseParams
from tasks.common.paths import main_checkout
from tasks.gate.verdict import GateVerdict
from tasks.releases.nothing_live import nothing_live
from tasks.releases.pause import pause_of
from tasks.releases.pointer import Pointer
from tasks.releases.rollout import Rollout, active, begin, new_id, rollouts
from tasks.releases.store import Releases

POLICY = "the rollout"  # who acts where no person does


def begin_rollout(
    root: Path, run_id: str, *, by: str, why: str = "", automatic: bool = False, now: datetime | None = None
) -> Rollout:
    """Let the model of the held run `run_id` answer as release.strategy says; returns the rollout.

    automatic: only if the gate promotes the run; a person may also begin with one that it holds. The gate judges again
    if another model went live since its verdict. Raises EvergreenError; nothing has begun then.
    """
    params, releases = open_project(root)
    policy, run = params.release, open_run(root, run_id)
    if policy.strategy == "direct":
        raise EvergreenError(
            "release.strategy in params.yaml is direct: set it to shadow or canary, or publish the run at once with "
            f"`evergreen approve {run_id}`"
        )
    if run.record["outcome"] != "held":
        raise EvergreenError(not_held(run_id, run.record))
    live = releases.live()
    if live is None:
        raise EvergreenError(f"{nothing_live(releases)} A first model has nothing to be compared with")
    if run.is_live(live):
        raise EvergreenError(f"run {run_id} is live already, as {live.version}")
    if (going := active(releases)) is not None:
        raise EvergreenError(
            f"a rollout goes on already: {going.sentence()}. Wait for it, or end it with `evergreen rollout stop`"
        )
    verdict = _verdict(root, run_id, run.record, live, by)
    if verdict.outcome == "reject" or (automatic and verdict.outcome != "promote"):
        raise EvergreenError(f"run {run_id} does not begin: against {live.version} the gate says: {verdict.sentence}")
    releases.audit_bundle(run.record["bundle"])
    now = now or datetime.now(UTC)
    new = begin(
        releases,
        Rollout(
            id=new_id(now),
            strategy=policy.strategy,
            run_id=run_id,
            version=_version(root, releases, params.bundle.name),
            bundle=run.record["bundle"],
            champion=live.version,
            champion_bundle=live.bundle,
            champion_seq=live.seq,
            steps=_steps(policy),
            since=now,
            step_since=now,
            by=by,
            why=why or verdict.sentence,
        ),
    )
    failpoint("rollout.begun")
    return new


def begin_waiting(root: Path, releases: Releases, *, by: str, now: datetime | None = None) -> Rollout | None:
    """Begin the newest run that waits for its rollout; None if none waits, or during a pause or another rollout.

    A run that the gate no longer promotes keeps waiting, for a person: its record says so.
    """
    if active(releases) is not None or pause_of(releases, now):
        return None
    if not (waiting := waiting_runs(releases)):
        return None
    try:
        return begin_rollout(root, waiting[-1], by=by, automatic=True, now=now)
    except EvergreenError as error:
        said = " ".join(str(error).split())
        releases.change_run(
            waiting[-1],
            lambda record: (
                record | {"rollout": False, "sentence": f"{record['sentence']} Its rollout did not begin: {said}."}
                if record.get("rollout")
                else record
            ),
        )
        raise


def waiting_runs(releases: Releases) -> tuple[str, ...]:
    """Held runs that the gate promoted and whose rollout has not begun, oldest first."""
    going = active(releases)
    found = [name for name, run in releases.runs().items() if run["outcome"] == "held" and run.get("rollout")]
    return tuple(name for name in found if going is None or name != going.run_id)


def _verdict(root: Path, run_id: str, record: dict, live: Pointer, by: str) -> GateVerdict:
    """The verdict of the run itself where it was against `live`, else a new one."""
    if record.get("verdict"):
        verdict = GateVerdict.model_validate(record["verdict"])
        if verdict.champion == live.version:
            return verdict
    return preview(root, run_id, by=by).verdict


def _version(root: Path, releases: Releases, name: str) -> str:
    """The version after all that are published or were reserved by a rollout."""
    known = [*registry.versions(main_checkout(root), name), *(pointer.version for pointer in releases.history())]
    return registry.next_version([*known, *(one.version for one in rollouts(releases))])


def _steps(policy: ReleaseParams) -> tuple[float, ...]:
    return tuple(policy.steps) if policy.strategy == "canary" else (0.0,)
