"""Fresh labels of the predictor's clients, for the monitor: light to import where none wait."""

from datetime import datetime, timedelta
from pathlib import Path

from monitoring.log.feedback import FeedbackJournal
from monitoring.log.production_log import open_log
from tasks.common.errors import EvergreenError
from tasks.common.params import load_params
from tasks.common.plural import counted

FRESH_DAYS = 1  # the monitor looks again and again for images of labels that are younger
MONITOR_SECONDS = 5.0  # that the monitor waits for another call that takes labels


def take_fresh(root: Path, now: datetime) -> str | None:
    """Take new labels into the log for the monitor, if some may be taken now; returns what it did, if anything."""
    log = open_log(root, load_params(root / "params.yaml"))
    try:
        waiting = FeedbackJournal(log.store).waiting().labels
        if not any(not one.logged and now - one.label.at < timedelta(days=FRESH_DAYS) for one in waiting):
            return None
        from flows.production.feedback import take_feedback  # with all that writes data/: most monitor runs need none

        count = take_feedback(root, ingest=False, now=now, seconds=MONITOR_SECONDS).logged
    except EvergreenError as error:  # they wait: production is measured without them
        return f"labels of clients wait: {error}"
    what = f"{counted(count, 'label')} of clients of the predictor"
    return f"new for the live accuracy: {what}" if count else None
