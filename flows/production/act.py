"""Carry out a drift decision: start a retraining by an event, fill the review queue, send alerts."""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from flows.server.events import request_retrain
from monitoring.alerts import alert_once
from monitoring.contracts import DriftDecision, Measures
from monitoring.log.production_log import Log
from tasks.common.errors import EvergreenError
from tasks.common.params import Params


def act(
    root: Path,
    params: Params,
    log: Log,
    measures: Measures,
    decision: DriftDecision,
    *,
    since: datetime | None = None,
    link: str = "",
    say: Callable[[str], None] = print,
) -> list[str]:
    """Do what `decision` asks for; returns sentences on what was done.

    since: start of the first drifted window (None: this window), because people are asked about all of them.
    link: address of the window's report, for the alerts.

    Raises EvergreenError if a retraining was decided and no server takes the event. Then the decision is not recorded,
    so the next run reaches it again.
    """
    window, done = measures.window, []
    if decision.outcome == "retrain":
        reason = f"window {window.id}: {decision.sentence}"
        event = request_retrain(root, "drift", reason, window.id)
        done.append(f"A retraining was requested (event {event}).")
    elif decision.outcome == "label":
        from monitoring.review.queue import enqueue, waiting

        waits = len(waiting(log))
        budget = params.review.budget - waits
        if budget > 0:
            limited = params.review.model_copy(update={"budget": budget})
            chosen = enqueue(
                log, limited, since or window.start, window.end, f"window {window.id}: {decision.sentence}"
            )
            done.append(
                f"{len(chosen)} samples were added to the review queue; {waits + len(chosen)} wait for a label."
            )
        else:
            done.append(f"{waits} samples already wait for a label, so none was added.")
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
            link=link,
        )
    problems += alert_once(root, "no samples", "silence", "; ".join(decision.alarms) or None, link=link)
    for problem in problems:
        say(problem)
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
