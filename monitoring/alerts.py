"""Telling people: one event, its sentence, a link and what was done, through every apprise address of the environment.

An alert is written to an outbox first and leaves it address by address, so that a mail server that is down costs
nothing but time: the next monitor run tries again, for a day. Addresses hold secrets: they are known here by a hash,
and nothing of them is ever written or raised.
"""

import logging
import os
import time
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tasks.common.files import read_json, sha256_bytes, wait_for_lock, write_json
from tasks.common.params import AlertsParams, load_params
from tasks.common.paths import state_dir

TRIES, PAUSE = 2, 1.0  # per address and delivery; seconds between them
GIVE_UP = timedelta(days=1)
LOCK_SECONDS = 3600.0  # an address that does not answer is tried three times, for each alert that waits

TITLES = {
    "watch": "drift seen, watching",
    "label": "drift: labels are needed",
    "retrain": "drift: retraining",
    "silence": "silence",
    "promoted": "a new model is live",
    "held": "a model waits for a person",
    "rejected": "a model was rejected",
    "refused": "data were refused",
    "failed": "something failed",
    "rollback": "rolled back",
}


def send(
    alerts: AlertsParams, outbox: Path, event: str, sentence: str, *, name: str, done: str = "", link: str = ""
) -> list[str]:
    """Tell everybody of `event`, if params.yaml lists it; one sentence per address that could not be reached (yet).

    name: of the model, for the title; done: what Evergreen did about it; link: of the report.
    """
    addresses = os.environ.get(alerts.urls_env, "").split()
    if event not in alerts.events or not addresses:
        return []
    lines = [sentence, f"Done: {done}" if done else "", f"Report: {link}" if link else ""]
    about = {
        "event": event,
        "title": f"Evergreen {name}: {TITLES[event]}",
        "body": "\n".join(line for line in lines if line),
        "at": datetime.now(UTC).isoformat(),
        "left": [_hash(address) for address in addresses],
    }
    write_json(outbox / f"{datetime.now(UTC):%Y%m%dT%H%M%S%f}-{uuid.uuid4().hex[:8]}.json", about)
    return deliver(alerts, outbox)


def deliver(alerts: AlertsParams, outbox: Path) -> list[str]:
    """Send what waits in the outbox; one sentence per address that an alert could not reach.

    An alert that is a day old, or whose addresses are all gone from the environment, is dropped.
    """
    waiting = sorted(outbox.glob("*.json")) if outbox.is_dir() else []
    if not waiting:
        return []
    addresses = {_hash(address): (n, address) for n, address in enumerate(os.environ.get(alerts.urls_env, "").split())}
    problems = []
    with open(outbox / ".lock", "w") as lock:
        wait_for_lock(lock, LOCK_SECONDS, f"the outbox {outbox}")  # two processes at once would send an alert twice
        for file in waiting:
            if not file.is_file():
                continue
            about = read_json(file)
            left = [hash_ for hash_ in about["left"] if hash_ in addresses]
            for hash_ in list(left):
                number, address = addresses[hash_]
                if problem := _notify(address, about):
                    problems.append(f"{alerts.urls_env}, address {number + 1}: {problem} ({about['event']} alert)")
                    continue
                left.remove(hash_)
                write_json(file, about | {"left": left})
            if not left or datetime.now(UTC) - datetime.fromisoformat(about["at"]) > GIVE_UP:
                file.unlink()
    return problems


def _notify(address: str, about: dict) -> str | None:
    """Why `about` could not be sent to `address`; None when it was."""
    import apprise

    logging.getLogger("apprise").setLevel(logging.CRITICAL + 1)  # it names addresses
    sender = apprise.Apprise()
    if not sender.add(address):
        return "not an address apprise understands"
    kind = "failure" if about["event"] in ("failed", "silence", "rollback", "refused") else "info"
    for attempt in range(TRIES):
        if sender.notify(body=about["body"], title=about["title"], notify_type=kind, body_format="text"):
            return None
        time.sleep(PAUSE * (attempt + 1 < TRIES))
    return "could not be reached, will be tried again"


def _hash(address: str) -> str:
    return sha256_bytes(address.encode())[:16]


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
