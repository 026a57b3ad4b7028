"""What follows from a drift decision: an event that starts a retraining, samples for the review queue, alerts."""

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
    """Do what `decision` asks for; sentences of what was done.

    since: start of the first of the windows that drifted (None: of this one): people are asked about all of them.
    link: of the window's report, for the alerts.

    Raises EvergreenError when a retraining was decided and no server takes the event: then the decision is not kept,
    and the next run comes to it again.
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
                f"{len(chosen)} samples were put into the review queue, {waits + len(chosen)} wait for a label."
            )
        else:
            done.append(f"{waits} samples wait for a label already, so none was added.")
    if decision.outcome == "none":
        for outcome in ("watch", "label", "retrain"):
            alert_once(root, f"drift {outcome}", outcome, None)
        problems = []
    else:  # once while it lasts: it is decided anew with every window
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
    """How many samples got a true label at or after `since` (when the live model came) that a run could learn from:
    none while HEAD names nothing that no run has seen, whatever the log holds."""
    from flows.repo.run_inputs import current_inputs

    try:
        if current_inputs(root)[2] is not None:
            return 0
    except EvergreenError:  # no data.dvc: nothing can be retrained from this checkout
        return 0
    return len(set(log.labels(since=since)["id"].to_pylist()))
