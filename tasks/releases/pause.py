"""A pause: no automatic retraining, promotion or rollback until a person resumes, or until a date.

    pauses.json in the release store    every pause, oldest first: {at, by, why, until, ended}

It lies in the release store, so it holds on every machine that shares the store. Monitoring, measuring and alerts go
on. What a person starts or approves goes on, too: a run that passes the gate meanwhile is held instead of promoted.
"""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import AwareDatetime, ValidationError

from tasks.common.checks import Frozen
from tasks.common.errors import EvergreenError, refuse_newer
from tasks.common.params import load_params
from tasks.releases.bundle_store import StoreDamaged
from tasks.releases.store import Releases, open_store

PAUSES = "pauses.json"
SCHEMA = 1


class Ended(Frozen):
    """Who ended a pause before its time, and when."""

    by: str
    at: AwareDatetime


class Pause(Frozen):
    """One pause. until: None lasts until a person resumes."""

    at: AwareDatetime
    by: str
    why: str
    until: AwareDatetime | None = None
    ended: Ended | None = None

    def holds(self, now: datetime) -> bool:
        """Whether it forbids automatic action at `now`."""
        return self.ended is None and (self.until is None or now < self.until)

    def sentence(self) -> str:
        """ "paused until 2026-12-01 08:00 UTC by Ann: the line is rebuilt"."""
        until = f"until {self.until.astimezone(UTC):%Y-%m-%d %H:%M} UTC" if self.until else "until somebody resumes"
        return f"paused {until} by {self.by}: {self.why}"


def paused(root: Path, now: datetime | None = None) -> Pause | None:
    """The pause that holds for the project at `root` now; one small read of its release store."""
    return pause_of(open_store(load_params(root / "params.yaml").store, root), now)


def pause_of(releases: Releases, now: datetime | None = None) -> Pause | None:
    """The pause that holds in this release store now; None if automatic action is allowed."""
    newest = pauses(releases)[-1:]
    return newest[0] if newest and newest[0].holds(now or datetime.now(UTC)) else None


def pauses(releases: Releases) -> list[Pause]:
    """Every pause, oldest first. Raises StoreDamaged if the record cannot be read: nothing automatic may start then."""
    found = releases.store.read(PAUSES)
    if found is None:
        return []
    try:
        return _accept(json.loads(found[0]))
    except (ValueError, KeyError, TypeError, ValidationError) as error:
        raise StoreDamaged(
            f"{PAUSES} in the release store cannot be read ({error}): restore it from a backup"
        ) from None


def pause(
    releases: Releases, *, by: str, why: str, until: datetime | None = None, now: datetime | None = None
) -> Pause:
    """Pause from now on; replaces a pause that holds already. Raises EvergreenError without a reason or in the past."""
    now = now or datetime.now(UTC)
    if not why.strip():
        raise EvergreenError("a pause needs a reason: say why, so that others know when to resume")
    if until is not None and until <= now:
        raise EvergreenError(f"{until.astimezone(UTC):%Y-%m-%d %H:%M} UTC has passed: a pause ends in the future")
    new = Pause(at=now, by=by, why=" ".join(why.split()), until=until)
    _change(releases, lambda known: [*_end(known, by, now), new])
    return new


def resume(releases: Releases, *, by: str, now: datetime | None = None) -> Pause | None:
    """End the pause that holds; returns it, or None if nothing is paused."""
    now = now or datetime.now(UTC)
    holding = pause_of(releases, now)
    if holding is not None:
        _change(releases, lambda known: _end(known, by, now))
    return holding


def _end(known: list[Pause], by: str, now: datetime) -> list[Pause]:
    return [one.model_copy(update={"ended": Ended(by=by, at=now)}) if one.holds(now) else one for one in known]


def _change(releases: Releases, change) -> None:
    def changed(about: dict | None) -> dict[str, Any]:
        after = change(_accept(about) if about else [])
        return {"schema": SCHEMA, "pauses": [one.model_dump(mode="json") for one in after]}

    releases.update(PAUSES, changed)


def _accept(about: dict) -> list[Pause]:
    refuse_newer(about["schema"], SCHEMA, f"{PAUSES} in the release store")
    return [Pause.model_validate(one) for one in about["pauses"]]
