"""What `evergreen score` has logged since the last monitor run: .evergreen/scored.json.

The next `evergreen monitor` measures it at once, by the time of the traffic, also where that lies before the window
that is open now.
"""

from datetime import datetime
from pathlib import Path

from pydantic import AwareDatetime

from tasks.common.checks import Frozen
from tasks.common.files import locked, write_json
from tasks.common.paths import state_dir
from tasks.common.rebuildable import read_rebuildable

LOCK_SECONDS = 60.0  # writing one small file takes milliseconds


class Scored(Frozen):
    """The times of the answers that the model `bundle` has given since the last monitor run."""

    bundle: str
    first: AwareDatetime
    last: AwareDatetime


def note(root: Path, bundle: str, first: datetime, last: datetime) -> None:
    """Remember that answers of `bundle` from `first` to `last` were logged."""
    with _locked(root):
        before = pending(root, bundle)
        new = Scored(
            bundle=bundle,
            first=min(first, before.first) if before else first,
            last=max(last, before.last) if before else last,
        )
        write_json(_file(root), new.model_dump(mode="json"))


def pending(root: Path, bundle: str) -> Scored | None:
    """What was scored with `bundle` and not measured yet; None if there is nothing, or the file is damaged."""
    found = read_rebuildable(_file(root), Scored.model_validate, "what was scored is measured with the next window")
    return found if found and found.bundle == bundle else None


def clear(root: Path, measured: Scored) -> None:
    """Forget what was measured, unless more was scored meanwhile."""
    with _locked(root):
        if pending(root, measured.bundle) == measured:
            _file(root).unlink()


def _file(root: Path) -> Path:
    return state_dir(root) / "scored.json"


def _locked(root: Path):
    return locked(_file(root).with_suffix(".lock"), LOCK_SECONDS, "the list of scored answers")
