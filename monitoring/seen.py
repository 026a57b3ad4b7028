"""What the last monitor run did, for `evergreen status` and the alarm of silence: monitor.json."""

from datetime import datetime
from pathlib import Path

from pydantic import AwareDatetime

from tasks.common.checks import Frozen
from tasks.common.files import write_json
from tasks.common.paths import state_dir
from tasks.common.rebuildable import read_rebuildable


class Seen(Frozen):
    """The result of one run. `sentence` is for people."""

    at: AwareDatetime
    outcome: str  # of the decision; "waiting": too few rows so far; "nothing": no model is live
    sentence: str
    window: str | None = None
    report: str | None = None  # path of our page


def note_seen(root: Path, seen: Seen) -> None:
    """Record the result of a monitor run."""
    write_json(state_dir(root) / "monitor.json", seen.model_dump(mode="json"))


def last_seen(root: Path) -> Seen | None:
    """The result of the last monitor run; None if none has run, or its record is damaged."""
    return read_rebuildable(
        state_dir(root) / "monitor.json", Seen.model_validate, "the next monitor run writes it again"
    )


def last_at(root: Path) -> datetime | None:
    """When the monitor last ran."""
    seen = last_seen(root)
    return seen.at if seen else None
