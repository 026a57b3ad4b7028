"""Switches of this machine: which version answers, and whether people look at every answer.

    .evergreen/predictor/switches.json      {schema, pin, humans_only, history}

Every worker of `evergreen serve` reads the file within `predictor.refresh_seconds`. It lies on this machine, so a
switch works while the release store cannot be reached. Other machines have switches of their own.
"""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from tasks.common.errors import EvergreenError, refuse_newer
from tasks.common.files import locked, write_json
from tasks.common.paths import state_dir
from tasks.common.private import make_folder

SCHEMA = 1
KEPT = 200  # entries of the history
LOCK_SECONDS = 20


class Frozen(BaseModel):
    """Part of the file; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Pin(Frozen):
    """The version that answers, whatever is live. bundle: its digest in the release store."""

    version: str
    bundle: str
    at: AwareDatetime
    by: str
    why: str = ""


class HumansOnly(Frozen):
    """People must look at every answer."""

    at: AwareDatetime
    by: str
    why: str = ""


class Change(Frozen):
    """What somebody switched."""

    what: str  # "pin v0.1.0", "humans-only off"
    at: AwareDatetime
    by: str
    why: str = ""


class Switches(Frozen):
    """All switches of this machine, and who changed them when, the oldest change first."""

    pin: Pin | None = None
    humans_only: HumansOnly | None = None
    history: list[Change] = []


class SwitchesDamaged(EvergreenError):
    """The file of switches is not what Evergreen writes."""


def predictor_dir(root: Path) -> Path:
    """Where the predictor of the checkout at `root` keeps its files."""
    return state_dir(root) / "predictor"


def read_switches(root: Path) -> Switches:
    """The switches of this machine. Raises SwitchesDamaged where they cannot be read."""
    file = predictor_dir(root) / "switches.json"
    try:
        found = json.loads(file.read_bytes())
        refuse_newer(found.pop("schema"), SCHEMA, str(file))
        return Switches.model_validate(found)
    except FileNotFoundError:
        return Switches()
    except EvergreenError as error:  # of a newer version, or of no known one
        raise SwitchesDamaged(str(error)) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ValidationError) as error:
        raise SwitchesDamaged(
            f"{file} cannot be read ({type(error).__name__}): nobody can tell which version was pinned. Delete the "
            "file, then set the switches again (`evergreen pin`, `evergreen humans-only`)"
        ) from None


def set_pin(root: Path, version: str, bundle: str, by: str, why: str = "") -> Pin:
    """Let `version` answer on this machine, whatever is live."""
    new = Pin(version=version, bundle=bundle, at=_now(), by=by, why=why)
    _change(root, lambda found: found.model_copy(update={"pin": new}), Change(what=f"pin {version}", **_who(new)))
    return new


def end_pin(root: Path, by: str) -> Pin | None:
    """Let the live version answer again; returns the pin that ended, None if none held."""
    before = read_switches(root).pin
    if before is not None:
        change = Change(what=f"unpin {before.version}", at=_now(), by=by)
        _change(root, lambda found: found.model_copy(update={"pin": None}), change)
    return before


def set_humans_only(root: Path, on: bool, by: str, why: str = "") -> HumansOnly | None:
    """Have people look at every answer of this machine from now on, or no longer; returns what held before."""
    before = read_switches(root).humans_only
    if on != (before is not None):
        new = HumansOnly(at=_now(), by=by, why=why)
        update = {"humans_only": new if on else None}
        change = Change(what=f"humans-only {'on' if on else 'off'}", **_who(new))
        _change(root, lambda found: found.model_copy(update=update), change)
    return before


def sentences(switches: Switches) -> list[str]:
    """What the switches say, for people; empty if all are off."""
    found = []
    if pin := switches.pin:
        found.append(f"{pin.version} is pinned since {_said(pin)}; `evergreen unpin` ends it")
    if humans := switches.humans_only:
        found.append(f"people look at every answer since {_said(humans)}; `evergreen humans-only off` ends it")
    return found


def _said(one: Pin | HumansOnly) -> str:
    return f"{one.at.astimezone(UTC):%Y-%m-%d %H:%M} UTC by {one.by}{f': {one.why}' if one.why else ''}"


def _change(root: Path, change: Callable[[Switches], Switches], entry: Change) -> None:
    folder = make_folder(predictor_dir(root))
    with locked(folder / "switches.lock", LOCK_SECONDS, "the switches of the predictor"):
        found = change(read_switches(root))
        kept = [*found.history, entry][-KEPT:]
        new = found.model_copy(update={"history": kept})
        write_json(folder / "switches.json", {"schema": SCHEMA} | new.model_dump(mode="json"))


def _who(one: Pin | HumansOnly) -> dict:
    return {"at": one.at, "by": one.by, "why": one.why}


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)
