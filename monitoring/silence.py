"""Notice from outside that the monitor does not run: it cannot report that itself."""

from datetime import datetime, timedelta
from pathlib import Path

from tasks.common.files import read_json
from tasks.common.params import load_params
from tasks.common.paths import state_dir


def monitor_silence(root: Path, since: datetime, now: datetime) -> str | None:
    """A sentence if no monitor run has succeeded for decide.max_silence_minutes; None while all is well.

    since: when the services started; no run is expected before that.
    """
    minutes = load_params(root / "params.yaml").decide.max_silence_minutes
    file = state_dir(root) / "monitor.json"
    last = datetime.fromisoformat(read_json(file)["at"]) if file.is_file() else None
    quiet = now - max(since, last or since)
    if quiet <= timedelta(minutes=minutes):
        return None
    when = f"the last success was at {last:%Y-%m-%d %H:%M} UTC" if last else "no run has ever succeeded"
    return f"no monitor run has succeeded for {quiet.total_seconds() / 60:.0f} minutes ({when})"
