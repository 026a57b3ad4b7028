"""Carries out decisions about a rollout: next step, promotion, rollback, orders of people.

    look      what the monitor does on schedule: complete, measure, decide, act; begin what waits

Each change is one compare-and-swap: of rollout.json for a step or an end, of champion.json for a promotion. Every look
first calls `reconcile_rollout`, which completes what follows: the run's record, the end of a rollout whose model went
live.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from flows.publishing.held import promote_rolled_out
from flows.publishing.history import open_project
from flows.publishing.recorded_run import delete_ref, open_run
from flows.publishing.run_records import now as record_time
from flows.repo import run_inputs
from flows.rollout.begin import POLICY, begin_waiting
from flows.rollout.decide import Decision, decide
from flows.rollout.measure import measure
from monitoring.alerts import alert, alert_once
from monitoring.console_link import quoted
from tasks.common.errors import EvergreenError
from tasks.common.failpoints import failpoint
from tasks.common.paths import main_checkout
from tasks.releases.pause import pause_of
from tasks.releases.rollout import How, Rollout, RolloutEnd, active, advance, finish, newest
from tasks.releases.store import Releases

REJECTED: tuple[How, ...] = ("rolled_back",)  # ends after which only an override publishes the run


def look(root: Path, say: Callable[[str], None] = print, now: datetime | None = None) -> str | None:
    """Take the rollout as far as production allows; returns one sentence, None if none goes on and none waits.

    Raises EvergreenError if a store or the gate refuses; the next look tries again.
    """
    now = now or datetime.now(UTC)
    params, releases = open_project(root)
    for line in reconcile_rollout(root, releases, now):
        say(line)
    if (rollout := active(releases)) is None:
        if (
            params.release.strategy == "direct"
            or (rollout := begin_waiting(root, releases, by=POLICY, now=now)) is None
        ):
            return None
        _tell(root, say, "held", f"{rollout.sentence()}: {rollout.why}", rollout)
        return rollout.sentence()
    decision = decide(rollout, measure(root, params, releases, rollout, now), params.release)
    if decision.outcome == "wait":
        return decision.sentence
    if pause := pause_of(releases, now):
        said = f"{decision.sentence}. Nothing was done, because Evergreen is {pause.sentence()}"
        if decision.outcome == "roll_back":
            for problem in alert_once(root, f"rollback of {rollout.version}", "rollback", said, page=_page(rollout)):
                say(problem)
        return said
    return carry_out(root, releases, rollout, decision, by=POLICY, say=say, now=now)


def carry_out(
    root: Path,
    releases: Releases,
    rollout: Rollout,
    decision: Decision,
    *,
    by: str,
    say: Callable[[str], None] = print,
    now: datetime | None = None,
) -> str:
    """Do what `decision` says about `rollout`; returns one sentence. Raises RolloutMoved if it changed meanwhile."""
    now, why = now or datetime.now(UTC), decision.sentence
    if decision.outcome == "advance":
        new = advance(releases, rollout, by=by, why=why, now=now)
        failpoint("rollout.advanced")
        said = f"{new.sentence()}: {why}"
        _tell(root, say, "held", said, rollout)
        return said
    if decision.outcome == "promote":
        try:
            pointer = promote_rolled_out(root, rollout.run_id, by=by, why=why, automatic=rollout.by == POLICY)
        except EvergreenError as error:
            if (meanwhile := reconcile_rollout(root, releases, now)) or by != POLICY:
                raise EvergreenError("; ".join([str(error), *meanwhile])) from None
            refused = f"{why}, but it was not published: {' '.join(str(error).split())}"
            return _end(root, releases, rollout, "stopped", by, refused, decision, say, now)
        failpoint("rollout.promoted")
        return _end(root, releases, rollout, "promoted", by, f"{pointer.version} is live: {why}", decision, say, now)
    how: How = "rolled_back" if decision.outcome == "roll_back" else "stopped"
    return _end(root, releases, rollout, how, by, why, decision, say, now)


def stop(root: Path, *, by: str, why: str, say: Callable[[str], None] = print) -> str:
    """End the rollout for a person: the live model answers everything again, and the run stays held."""
    rollout, releases, why = _ordered(root, why)
    return carry_out(root, releases, rollout, Decision(outcome="give_up", sentence=why), by=by, say=say)


def promote(root: Path, *, by: str, why: str, say: Callable[[str], None] = print) -> str:
    """Publish the challenger now, for a person, before its steps are over. The gate's floors hold."""
    rollout, releases, why = _ordered(root, why)
    return carry_out(root, releases, rollout, Decision(outcome="promote", sentence=why), by=by, say=say)


def next_step(root: Path, *, by: str, why: str, say: Callable[[str], None] = print) -> str:
    """Go to the next share for a person, before the step is over. Raises EvergreenError at the last step."""
    rollout, releases, why = _ordered(root, why)
    return carry_out(root, releases, rollout, Decision(outcome="advance", sentence=why), by=by, say=say)


def reconcile_rollout(root: Path, releases: Releases, now: datetime | None = None) -> list[str]:
    """Complete what a killed process, or a decision elsewhere, left of the newest rollout; returns what was done."""
    now, done = now or datetime.now(UTC), []
    if (rollout := newest(releases)) is None:
        return done
    if rollout.ended is None and (end := _ended_elsewhere(releases, rollout, now)) is not None:
        rollout = finish(releases, rollout, end)
        done.append(f"the rollout has ended: {rollout.sentence()}")
    if rollout.ended is not None and (_record_end(root, releases, rollout) or _record_live(root, releases, rollout)):
        done.append(f"recorded the end of the rollout of run {rollout.run_id}")
    return done


def _record_live(root: Path, releases: Releases, rollout: Rollout) -> bool:
    """Complete the record of a run that went live and was killed before its record said so."""
    live, run = releases.live(), releases.run(rollout.run_id)
    if live is None or live.bundle != rollout.bundle or run is None or run["outcome"] != "held":
        return False
    promote_rolled_out(root, rollout.run_id, by=live.by, why=live.why, automatic=True)
    return True


def _ended_elsewhere(releases: Releases, rollout: Rollout, now: datetime) -> RolloutEnd | None:
    """The end of a rollout whose run was published or refused, or whose champion was replaced."""
    live, run = releases.live(), releases.run(rollout.run_id)
    if live is not None and live.bundle == rollout.bundle:
        return RolloutEnd(how="promoted", at=now, by=live.by, why=f"{live.version} is live: {live.why}")
    if live is None or live.seq != rollout.champion_seq:
        found = live.version if live else "nothing"
        return RolloutEnd(how="superseded", at=now, by=POLICY, why=f"{found} is live, not {rollout.champion} any more")
    if run is not None and run["outcome"] == "rejected":
        return RolloutEnd(how="stopped", at=now, by=POLICY, why=f"run {rollout.run_id} was rejected: {run['sentence']}")
    return None


def _end(
    root: Path,
    releases: Releases,
    rollout: Rollout,
    how: How,
    by: str,
    why: str,
    decision: Decision,
    say: Callable[[str], None],
    now: datetime,
) -> str:
    ended = finish(releases, rollout, RolloutEnd(how=how, at=now, by=by, why=why, checks=decision.checks))
    failpoint("rollout.ended")
    _record_end(root, releases, ended)
    event = {"promoted": "promoted", "rolled_back": "rollback"}.get(how, "held")
    _tell(root, say, event, ended.sentence(), ended)
    return ended.sentence()


def _record_end(root: Path, releases: Releases, rollout: Rollout) -> bool:
    """Say in the run's record how its rollout ended; False if it says so. The run of a rollback counts as rejected."""
    end, known = rollout.ended, releases.run(rollout.run_id)
    if end is None or known is None or end.how == "superseded":  # a superseded run waits for its next rollout
        return False
    if known["outcome"] != "held" or not _is_open(known, rollout, end):
        return False
    sentence = f"{known['sentence']} {rollout.sentence().rstrip('.')}."
    entry = {"how": end.how, "by": end.by, "why": end.why, "at": record_time(), "version": None, "verdict": None}
    entry["rollout"] = rollout.id

    def ended(record: dict) -> dict:
        if record["outcome"] != "held" or not _is_open(record, rollout, end):
            return record
        outcome = "rejected" if end.how in REJECTED else "held"
        decisions = [*record.get("decisions", []), entry]
        return record | {"rollout": False, "outcome": outcome, "sentence": sentence, "decisions": decisions}

    if end.how in REJECTED:
        if known.get("key"):
            about = {"outcome": "rejected", "version": None, "sentence": sentence}
            run_inputs.record_ending(main_checkout(root), known["key"], {"run_id": rollout.run_id} | about)
        delete_ref(open_run(root, rollout.run_id))
    failpoint("rollout.recorded")
    releases.change_run(rollout.run_id, ended)  # last: until then the next look does all of it again
    return True


def _is_open(record: dict, rollout: Rollout, end: RolloutEnd) -> bool:
    """Does the record of a held run not say yet how this rollout ended?"""
    return end.how != "promoted" and rollout.id not in {one.get("rollout") for one in record.get("decisions", ())}


def _ordered(root: Path, why: str) -> tuple[Rollout, Releases, str]:
    """The rollout that a person orders something about."""
    if not why.strip():
        raise EvergreenError("say why with --why: it is stored with the rollout")
    releases = open_project(root)[1]
    done = reconcile_rollout(root, releases)
    if (rollout := active(releases)) is None:
        raise EvergreenError("; ".join(["no rollout goes on", *done]))
    return rollout, releases, " ".join(why.split())


def _tell(root: Path, say: Callable[[str], None], event: str, sentence: str, rollout: Rollout) -> None:
    for problem in alert(root, event, sentence, page=_page(rollout)):
        say(problem)


def _page(rollout: Rollout) -> str:
    return f"/releases/{quoted(rollout.run_id)}"
