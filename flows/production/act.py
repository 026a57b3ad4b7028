"""Carry out a drift decision: start a retraining by an event, fill the review queue, send alerts."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from flows.server.events import request_retrain
from monitoring.alerts import alert_once
from monitoring.contracts import DriftDecision, Measures, Window
from monitoring.log.production_log import Log
from tasks.common.errors import EvergreenError
from tasks.common.params import Params, ReviewParams
from tasks.releases.pointer import Pointer
from tasks.releases.rollout import active
from tasks.releases.store import Releases

AUDIT_SHARE = 0.3  # of the labels that drift asks for: as much as test and calibration get of a fair sample


def act(
    root: Path,
    params: Params,
    log: Log,
    measures: Measures,
    decision: DriftDecision,
    *,
    since: datetime | None = None,
    now: datetime | None = None,
    canary: str | None = None,
    say: Callable[[str], None] = print,
) -> list[str]:
    """Do what `decision` asks for; returns sentences on what was done.

    since: start of the first drifted window (None: this window), because people are asked about all of them.
    now: time of this run. canary: bundle of a challenger that answers a share of the traffic: half of the audit's draws
    are of its answers, so that labels say as much about it as about the live model.

    Raises EvergreenError if a retraining was decided and no server takes the event. Then the decision is not recorded,
    so the next run reaches it again.
    """
    window, done = measures.window, []
    if decision.outcome == "retrain":
        reason = f"window {window.id}: {decision.sentence}"
        event = request_retrain(root, "drift", reason, window.id)
        done.append(f"A retraining was requested (event {event}).")
    if decision.wanted:
        done.append("No retraining was requested: after the pause, the next window asks for it again if it is needed.")
    asked_for = decision.outcome == "label"
    done += _ask(params.review, log, window, decision.sentence, since if asked_for else None, asked_for, now, canary)
    if decision.outcome == "none":
        for outcome in ("watch", "label", "retrain"):
            alert_once(root, f"drift {outcome}", outcome, None)
        problems = []
    else:  # alert once while the drift lasts: every window reaches the same decision
        problems = alert_once(
            root,
            f"drift {decision.outcome}",
            decision.outcome,
            decision.sentence,
            done=" ".join(done) or "nothing yet",
            page="/label/production" if asked_for else f"/production/{window.id}",
        )
    problems += alert_once(root, "no samples", "silence", "; ".join(decision.alarms) or None)
    for problem in problems:
        say(problem)
    return done


def canary_of(releases: Releases, live: Pointer) -> str | None:
    """The bundle that answers a share of the live model's traffic; None without a canary."""
    now = active(releases)
    return now.bundle if now and now.strategy == "canary" and now.fits(live.version) else None


def _ask(
    review: ReviewParams,
    log: Log,
    window: Window,
    sentence: str,
    since: datetime | None,
    asked_for: bool,
    now: datetime | None,
    canary: str | None,
) -> list[str]:
    """Queue the window's audit sample and, where labels are asked for, what is informative since `since`.

    Then a share of the budget is drawn at random, too: the rest is trained on, and only random samples can show that
    the next model is better on what has changed.
    """
    from monitoring.review.queue import asked_by_drift, enqueue, enqueue_audit, waiting

    waits = asked_by_drift(log)
    start, because = since or window.start, f"window {window.id}: {sentence}"
    budget = review.budget - len(waits) if asked_for else 0
    extra = max(0, round(AUDIT_SHARE * budget)) if review.audit_per_day else 0  # 0: no audit at all
    now = now or datetime.now(UTC)
    drawn = enqueue_audit(log, review, start, window.end, window.bundle, because, now, extra, 0.5 if canary else 1.0)
    if canary:
        drawn += enqueue_audit(log, review, start, window.end, canary, f"canary: {because}", now, 0.0, 0.5)
    done = []
    if asked_for and budget <= 0:
        done.append(f"{len(waits)} samples already wait for a label, so none was added.")
    elif asked_for:
        rest = budget - len(drawn)
        limited = review.model_copy(update={"budget": rest})
        chosen = enqueue(log, limited, start, window.end, because, bundle=window.bundle) if rest > 0 else []
        added = len(chosen) + len(drawn)
        done.append(f"{added} samples were added to the review queue; {len(waiting(log))} wait for a label.")
    return done


def new_labels(root: Path, log: Log, since: datetime) -> int:
    """Count the samples with a true label given at or after `since` that a run could learn from.

    since: when the live model was released. The count is 0 while a run has already used everything that HEAD names.
    """
    from flows.repo.run_inputs import current_inputs

    try:
        if current_inputs(root)[2] is not None:
            return 0
    except EvergreenError:  # no data.dvc: this checkout cannot retrain anything
        return 0
    return len(set(log.labels(since=since)["id"].to_pylist()))
