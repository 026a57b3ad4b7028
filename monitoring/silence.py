"""Notice from outside that the monitor does not run: it cannot report that itself."""

from datetime import datetime, timedelta
from pathlib import Path

from monitoring.seen import last_at
from tasks.common.params import load_params


def monitor_silence(root: Path, since: datetime, now: datetime) -> str | None:
    """A sentence if no monitor run has succeeded for decide.max_silence_minutes; None while all is well.

    since: when the services started; no run is expected before that.
    """
    minutes = load_params(root / "params.yaml").decide.max_silence_minutes
    last = last_at(root)
    quiet = now - max(since, last or since)
    if quiet <= timedelta(minutes=minutes):
        return None
    when = f"the last success was at {last:%Y-%m-%d %H:%M} UTC" if last else "no run has ever succeeded"
    return f"no monitor run has succeeded for {quiet.total_seconds() / 60:.0f} minutes ({when})"
