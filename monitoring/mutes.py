"""Mutes: alarms that people silenced for a while; what they are about is still measured and shown.

    .evergreen/mutes.json    {schema, mutes: [{kind, at, by, why, until, ended}]}, those of the last weeks

A kind is "drift" (all windows of a drift: watch, label, retrain), "silence", or an event (monitoring.alerts.TITLES).
A mute without a time lasts until its alarm ends: "until quiet".
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pydantic import AwareDatetime

from tasks.common.checks import Frozen
from tasks.common.errors import EvergreenError, refuse_newer
from tasks.common.files import locked, write_json
from tasks.common.paths import state_dir
from tasks.common.private import make_folder
from tasks.common.rebuildable import read_rebuildable

SCHEMA = 1
LOCK_SECONDS = 60.0
KEPT = timedelta(days=60)  # an ended mute stays listed this long
DRIFT = ("watch", "label", "retrain")  # events that are one alarm for people
KINDS = {
    "drift": "drift",
    "silence": "no samples, or no monitor run",
    "failed": "failures",
    "promoted": "new models",
    "held": "models that wait for approval",
    "rejected": "rejected models",
    "refused": "refused data",
    "rollback": "rollbacks",
}


class Mute(Frozen):
    """One silenced kind of alarm. until: None lasts until the alarm ends."""

    kind: str
    at: AwareDatetime
    by: str
    why: str
    until: AwareDatetime | None = None
    ended: AwareDatetime | None = None
    ended_by: str | None = None  # None: the alarm ended, or the time passed
    alarms: list[str] = []  # that it silences and that last

    def holds(self, now: datetime) -> bool:
        """Whether alerts of this kind are not sent at `now`."""
        return self.ended is None and (self.until is None or now < self.until)

    def sentence(self) -> str:
        """ "drift is muted until 2026-12-01 08:00 UTC by Ann: camera 3 is serviced"."""
        until = f"until {self.until.astimezone(UTC):%Y-%m-%d %H:%M} UTC" if self.until else "until it is quiet"
        return f"{KINDS.get(self.kind, self.kind)}: muted {until} by {self.by}: {self.why}"


def kind_of(event: str) -> str:
    """The kind of alarm that `event` of an alert belongs to."""
    return "drift" if event in DRIFT else event


def muted(root: Path, event: str, now: datetime | None = None) -> Mute | None:
    """The mute that keeps alerts of `event` from being sent now; None if they are sent."""
    now = now or datetime.now(UTC)
    return next((one for one in mutes(root) if one.kind == kind_of(event) and one.holds(now)), None)


def active_mutes(root: Path, now: datetime | None = None) -> list[Mute]:
    """The mutes that hold now."""
    now = now or datetime.now(UTC)
    return [one for one in mutes(root) if one.holds(now)]


def mutes(root: Path) -> list[Mute]:
    """All mutes of the last weeks, oldest first. A damaged file mutes nothing: alerts are sent."""
    return read_rebuildable(_file(root), _accept, "nothing is muted now") or []


def mute(
    root: Path, kind: str, *, by: str, why: str, until: datetime | None = None, now: datetime | None = None
) -> Mute:
    """Silence alarms of `kind` from now on; replaces a mute of this kind. Raises EvergreenError."""
    now = now or datetime.now(UTC)
    if kind not in KINDS:
        raise EvergreenError(f"no kind of alarm {kind!r}; there are: {', '.join(KINDS)}")
    if until is None and kind not in ("drift", "silence", "failed"):
        raise EvergreenError(f"{KINDS[kind]} are told once and never become quiet: mute them until a time")
    if until is not None and until <= now:
        raise EvergreenError(f"{until.astimezone(UTC):%Y-%m-%d %H:%M} UTC has passed: a mute ends in the future")
    new = Mute(kind=kind, at=now, by=by, why=" ".join(why.split()) or "no reason given", until=until)
    _change(root, now, lambda known: [*_end(known, kind, now, by), new])
    return new


def unmute(root: Path, kind: str, *, by: str, now: datetime | None = None) -> None:
    """Send alarms of `kind` again."""
    now = now or datetime.now(UTC)
    _change(root, now, lambda known: _end(known, kind, now, by))


def kept_quiet(root: Path, holding: Mute, alarm: str) -> None:
    """Remember that `holding` silences `alarm`, which lasts."""
    if alarm not in holding.alarms:
        _change(root, datetime.now(UTC), lambda known: [_with(one, holding, [*one.alarms, alarm]) for one in known])


def became_quiet(root: Path, event: str, alarm: str, told: bool, others: Sequence[str]) -> None:
    """`alarm` has ended: end the mute that was to last until then, unless another alarm of its kind lasts.

    told: it was sent before the mute; others: alarms of the kind that were sent and last.
    """
    holding = muted(root, event)
    if holding is None or not (told or alarm in holding.alarms):
        return
    left = [one for one in holding.alarms if one != alarm]
    quiet = holding.until is None and not left and not others
    ended = datetime.now(UTC) if quiet else None
    _change(root, datetime.now(UTC), lambda known: [_with(one, holding, left, ended) for one in known])


def alarm_kind(alarm: str) -> str:
    """The kind of an alarm by its name in alarms.json: "drift label", "failed monitor", "no samples"."""
    first = alarm.partition(" ")[0]
    return first if first in KINDS else "silence"


def _with(one: Mute, holding: Mute, alarms: list[str], ended: datetime | None = None) -> Mute:
    same = (one.kind, one.at) == (holding.kind, holding.at)
    return one.model_copy(update={"alarms": alarms, "ended": one.ended or ended}) if same else one


def _end(known: list[Mute], kind: str, now: datetime, by: str) -> list[Mute]:
    over = {"ended": now, "ended_by": by}
    return [one.model_copy(update=over) if one.kind == kind and one.holds(now) else one for one in known]


def _change(root: Path, now: datetime, change: Callable[[list[Mute]], list[Mute]]) -> None:
    make_folder(state_dir(root))
    with locked(_file(root).with_suffix(".lock"), LOCK_SECONDS, "the list of muted alarms"):
        kept = [one for one in change(mutes(root)) if one.holds(now) or now - one.at < KEPT]
        write_json(_file(root), {"schema": SCHEMA, "mutes": [one.model_dump(mode="json") for one in kept]})


def _file(root: Path) -> Path:
    return state_dir(root) / "mutes.json"


def _accept(about: dict) -> list[Mute]:
    refuse_newer(about["schema"], SCHEMA, "mutes.json")
    return [Mute.model_validate(one) for one in about["mutes"]]
