"""Send alerts to the apprise addresses in the environment, and retry those that did not arrive.

An alert is one event: a sentence, what Evergreen did about it, and a link to the console's page where a person acts on
it. It is first written to an outbox and leaves
it address by address. If a mail server is down, the next monitor run tries again, for one day.
Addresses contain secrets: files hold only their hashes, and neither messages nor logs name them.
"""

import logging
import os
import re
import time
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from monitoring.console_link import console_link
from monitoring.mutes import alarm_kind, became_quiet, kept_quiet, kind_of, muted
from tasks.common.errors import EvergreenError
from tasks.common.files import locked, sha256_bytes, write_json
from tasks.common.machine_limits import machine_error
from tasks.common.params import AlertsParams, load_params
from tasks.common.paths import state_dir
from tasks.common.rebuildable import expect, read_rebuildable

TRIES, PAUSE = 2, 1.0  # per address and delivery; seconds between two tries
GIVE_UP = timedelta(days=1)  # an older alert is dropped
REPEAT = timedelta(hours=24)  # an alarm that lasts is sent again this often
LOCK_SECONDS = 3600.0  # an address that does not answer is tried three times, for each alert in the outbox

TITLES = {
    "watch": "drift seen, watching",
    "label": "drift: labels are needed",
    "retrain": "drift: retraining",
    "silence": "silence",
    "promoted": "a new model is live",
    "held": "a model waits for approval",
    "rejected": "a model was rejected",
    "refused": "data were refused",
    "failed": "something failed",
    "rollback": "rolled back",
}
PAGES = {  # of the console, where the caller names none
    "watch": "/production",
    "label": "/label/production",
    "retrain": "/runs",
    "silence": "/services",
    "promoted": "/releases",
    "held": "/releases",
    "rejected": "/releases",
    "refused": "/data",
    "failed": "/runs",
    "rollback": "/releases",
}
WITH_HOST = (  # apprise's kinds of address whose first part is the name of a server
    *("form", "forms", "gotify", "gotifys", "json", "jsons", "mailto", "mailtos", "mmost", "mmosts", "rocket"),
    *("rockets", "syslog", "xml", "xmls"),
)
HOST = re.compile(r"[A-Za-z0-9.-]+(:[0-9]{1,5})?")
FAILURES = ("failed", "silence", "rollback", "refused")  # events that apprise marks as failures


# --- for callers: the project at `root` decides what is sent and where


def alert(root: Path, event: str, sentence: str, *, done: str = "", page: str = "") -> list[str]:
    """Send `event` unless people muted it; returns one problem per address that could not be reached.

    An outbox that cannot be written is returned as a problem, not raised.

    done: what Evergreen did about it; page: path of the console's page with the action (default: of the event).
    """
    if muted(root, event):
        return []
    params = load_params(root / "params.yaml")
    link = console_link(root, page or PAGES[event])
    try:
        return _outbox(root, params.alerts).send(event, sentence, name=params.bundle.name, done=done, link=link)
    except OSError as error:
        return [f"the alert could not be saved: {machine_error(error) or error}"]


def alert_once(root: Path, alarm: str, event: str, sentence: str | None, **about: str) -> list[str]:
    """`alert` when `alarm` begins and once a day while it lasts; `sentence` None ends the alarm.

    An alarm that is muted counts as not sent: if it lasts longer than the mute, it is sent then.
    """
    file = state_dir(root) / "alarms.json"
    alarms = read_rebuildable(file, _accept_alarms, "what lasts is sent again") or {}
    if sentence is None:
        told = alarms.pop(alarm, None) is not None
        if told:
            write_json(file, alarms)
        became_quiet(root, event, alarm, told, [one for one in alarms if alarm_kind(one) == kind_of(event)])
        return []
    if holding := muted(root, event):
        kept_quiet(root, holding, alarm)
        return []
    sent = alarms.get(alarm)
    if sent and datetime.now(UTC) - datetime.fromisoformat(sent) < REPEAT:
        return []
    write_json(file, alarms | {alarm: datetime.now(UTC).isoformat()})
    return alert(root, event, sentence, **about)


def retry_alerts(root: Path) -> list[str]:
    """Send what is left in the outbox; one problem per address that could not be reached."""
    return _outbox(root, load_params(root / "params.yaml").alerts).deliver()


@dataclass(frozen=True)
class Address:
    """Where alerts go, without what only its owner may know."""

    number: int  # from 1, in the order of the environment
    shown: str
    understood: bool


@dataclass(frozen=True)
class Waiting:
    """An alert that has not reached every address."""

    at: datetime
    title: str
    body: str
    left: int  # addresses


def addresses(root: Path) -> list[Address]:
    """The addresses in the environment of this process."""
    found = _addresses(load_params(root / "params.yaml").alerts)
    return [Address(number, masked(one), _sender(one) is not None) for number, one in enumerate(found, 1)]


def masked(address: str) -> str:
    """The kind of `address`, and its host where that is one: for many services a secret is in the host's place."""
    scheme, mark, rest = address.partition("://")
    if not mark or not scheme.isalnum():
        return "(not an address)"
    if scheme.lower() not in WITH_HOST:
        return f"{scheme.lower()}://…"
    first, *more = re.split(r"[/?#]", rest, maxsplit=1)
    host = first.rpartition("@")[2]
    plain = HOST.fullmatch(host) and not ("@" not in first and more and "@" in more[0])  # else a password is cut apart
    return f"{scheme.lower()}://{host}/…" if plain else f"{scheme.lower()}://…"


def send_test(root: Path, number: int, by: str) -> str | None:
    """Send a test to the address with this number; the problem, None if it arrived."""
    params = load_params(root / "params.yaml")
    found = _addresses(params.alerts)
    if not 1 <= number <= len(found):
        raise EvergreenError(f"no address {number}: {params.alerts.urls_env} has {len(found)}")
    body = f"This is a test that {by} asked for.\nOpen: {console_link(root, '/services')}"
    return _notify(
        found[number - 1], {"event": "test", "title": f"Evergreen {params.bundle.name}: a test", "body": body}
    )


def unsent(root: Path) -> list[Waiting]:
    """Alerts that wait in the outbox, oldest first."""
    folder, found = state_dir(root) / "alerts", []
    for file in sorted(folder.glob("*.json")) if folder.is_dir() else []:
        if about := read_rebuildable(file, _accept_alert, "this alert is lost"):
            at = datetime.fromisoformat(about["at"])
            found.append(Waiting(at, about["title"], about["body"], len(about["left"])))
    return found


# --- the outbox


class Outbox:
    """Alerts in `folder` that have not reached every address yet, one JSON file each."""

    def __init__(self, folder: Path, params: AlertsParams):
        self.folder, self.params = folder, params

    def send(self, event: str, sentence: str, *, name: str, link: str, done: str = "") -> list[str]:
        """Save an alert if params.yaml lists `event`, and deliver all; one problem per address.

        name: of the model, for the title; link: of the console's page; done: what Evergreen did about it.
        """
        addresses = _addresses(self.params)
        if event not in self.params.events or not addresses:
            return []
        lines = [sentence, f"Done: {done}" if done else "", f"Open: {link}"]
        about = {
            "event": event,
            "title": f"Evergreen {name}: {TITLES[event]}",
            "body": "\n".join(line for line in lines if line),
            "at": datetime.now(UTC).isoformat(),
            "left": [_hash(address) for address in addresses],
        }
        write_json(self.folder / f"{datetime.now(UTC):%Y%m%dT%H%M%S%f}-{uuid.uuid4().hex[:8]}.json", about)
        return self.deliver()

    def deliver(self) -> list[str]:
        """Send every waiting alert; one problem per address that an alert could not reach.

        An alert is dropped once it is a day old or none of its addresses is in the environment any more.
        """
        waiting = sorted(self.folder.glob("*.json")) if self.folder.is_dir() else []
        if not waiting:
            return []
        addresses = {_hash(address): (n, address) for n, address in enumerate(_addresses(self.params))}
        problems = []
        # two processes at the same time would send an alert twice
        with locked(self.folder / ".lock", LOCK_SECONDS, f"the outbox {self.folder}"):
            for file in waiting:
                if not file.exists():  # delivered by another process while this one waited
                    continue
                about = read_rebuildable(file, _accept_alert, "this alert is lost")
                if about is None:
                    continue
                left = [hash_ for hash_ in about["left"] if hash_ in addresses]
                for hash_ in list(left):
                    number, address = addresses[hash_]
                    if problem := _notify(address, about):
                        where = f"{self.params.urls_env}, address {number + 1}"
                        problems.append(f"{where}: {problem} ({about['event']} alert)")
                        continue
                    left.remove(hash_)
                    write_json(file, about | {"left": left})
                if not left or datetime.now(UTC) - datetime.fromisoformat(about["at"]) > GIVE_UP:
                    file.unlink()
        return problems


def _accept_alarms(about: dict) -> dict[str, str]:
    for at in about.values():
        datetime.fromisoformat(at).astimezone(UTC)
    return about


def _accept_alert(about: dict) -> dict:
    for name in ("event", "title", "body", "at"):
        expect(about[name], str)
    datetime.fromisoformat(about["at"]).astimezone(UTC)
    return about | {"left": [expect(one, str) for one in expect(about["left"], list)]}


def _outbox(root: Path, params: AlertsParams) -> Outbox:
    return Outbox(state_dir(root) / "alerts", params)


def _addresses(params: AlertsParams) -> list[str]:
    return os.environ.get(params.urls_env, "").split()


def _sender(address: str):
    """What apprise makes of `address`; None if it does not understand it."""
    import apprise

    logging.getLogger("apprise").setLevel(logging.CRITICAL + 1)  # its messages contain addresses
    sender = apprise.Apprise()
    return sender if sender.add(address) else None


def _notify(address: str, about: dict) -> str | None:
    """Send `about` to `address`; the problem, None if it arrived."""
    sender = _sender(address)
    if sender is None:
        return "apprise does not understand this address"
    kind = "failure" if about["event"] in FAILURES else "info"
    for attempt in range(TRIES):
        if sender.notify(body=about["body"], title=about["title"], notify_type=kind, body_format="text"):
            return None
        time.sleep(PAUSE * (attempt + 1 < TRIES))
    return "could not be reached, will be tried again"


def _hash(address: str) -> str:
    return sha256_bytes(address.encode())[:16]
