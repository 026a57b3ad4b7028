"""Alerts from the flows: which project, which outbox, and the silence of the monitor itself."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from monitoring.alerts import deliver, send
from tasks.files import read_json, write_json
from tasks.params import load_params
from tasks.paths import state_dir

AGAIN = timedelta(hours=24)  # an alarm that lasts is repeated this often


def alert(root: Path, event: str, sentence: str, *, done: str = "", link: str = "") -> list[str]:
    """Tell everybody of `event`; sentences about addresses that could not be reached. Never stops its caller."""
    params = load_params(root / "params.yaml")
    try:
        return send(params.alerts, _outbox(root), event, sentence, name=params.bundle.name, done=done, link=link)
    except OSError as error:
        return [f"the alert could not be kept: {error}"]


def alert_once(root: Path, what: str, event: str, sentence: str | None, **about: str) -> list[str]:
    """`alert`, but once while `what` lasts (and again every day of it); sentence None: it is over."""
    file = state_dir(root) / "alarms.json"
    alarms = read_json(file) if file.is_file() else {}
    if sentence is None:
        if alarms.pop(what, None):
            write_json(file, alarms)
        return []
    told = alarms.get(what)
    if told and datetime.now(UTC) - datetime.fromisoformat(told) < AGAIN:
        return []
    write_json(file, alarms | {what: datetime.now(UTC).isoformat()})
    return alert(root, event, sentence, **about)


def retry_alerts(root: Path) -> list[str]:
    """Try again what could not be sent."""
    return deliver(load_params(root / "params.yaml").alerts, _outbox(root))


def monitor_silence(root: Path, since: datetime, now: datetime) -> str | None:
    """A sentence when no monitor run has ended well for decide.max_silence_minutes; None while all is well.

    since: when the services came up, before which no run is expected. This looks from outside the monitor, because a
    monitor that does not run cannot say so.
    """
    minutes = load_params(root / "params.yaml").decide.max_silence_minutes
    file = state_dir(root) / "monitor.json"
    last = datetime.fromisoformat(read_json(file)["at"]) if file.is_file() else None
    quiet = now - max(since, last or since)
    if quiet <= timedelta(minutes=minutes):
        return None
    when = f"the last was at {last:%Y-%m-%d %H:%M} UTC" if last else "there has been none"
    return f"no monitor run has ended well for {quiet.total_seconds() / 60:.0f} minutes ({when})"


def _outbox(root: Path) -> Path:
    return state_dir(root) / "alerts"
