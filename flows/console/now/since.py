"""What happened since a person was last here.

.evergreen/console/visits.json    name -> [end of the visit before, last page of this one]
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote

from flows.console.index.index import index_of
from flows.console.index.windows import WindowFilter
from flows.console.shell.console import Console
from flows.publishing.history import known_history
from flows.publishing.run_list import run_rows
from monitoring.pages.render import OUTCOMES
from tasks.common.errors import EvergreenError
from tasks.common.files import locked, write_json
from tasks.common.paths import state_dir
from tasks.common.private import make_folder
from tasks.common.rebuildable import expect_dict, read_rebuildable

BREAK = timedelta(minutes=30)  # without a look: the visit has ended
MOST = 8  # lines
PEOPLE = 500  # that are remembered
LOCK_SECONDS = 10.0


@dataclass(frozen=True)
class Happened:
    """One thing that happened, with the page that tells of it."""

    at: datetime
    text: str
    url: str


def note_visit(root: Path, name: str, now: datetime | None = None) -> datetime | None:
    """Record that `name` looks now; returns when they were last here before this visit, None if never."""
    now = now or datetime.now(UTC)
    folder = state_dir(root) / "console"
    make_folder(folder)
    with locked(folder / "visits.lock", LOCK_SECONDS, "the visits of the console"):
        known = read_rebuildable(folder / "visits.json", _accept, "everybody is new") or {}
        before, last = known.get(name, (None, None))
        if last is None or now - last > BREAK:
            before = last
        if last is None or now - last > timedelta(minutes=1):  # not a write for each look
            kept = dict(sorted({**known, name: (before, now)}.items(), key=lambda one: one[1][1])[-PEOPLE:])
            write_json(folder / "visits.json", {who: [_text(at) for at in times] for who, times in kept.items()})
    return before


def happened_since(console: Console, since: datetime) -> list[Happened]:
    """The newest things that happened after `since`, the newest first, at most `MOST`."""
    found = [*_releases(console, since), *_runs(console, since), *_windows(console, since)]
    return sorted(found, key=lambda one: one.at, reverse=True)[:MOST]


def _releases(console: Console, since: datetime) -> list[Happened]:
    try:
        history = known_history(console.root, console.releases())
    except EvergreenError:  # the frame says what is wrong
        return []
    return [
        Happened(one.at, f"{one.version} went live, by {one.by}", f"/releases/{quote(one.version)}")
        for one in history
        if one.at > since
    ]


def _runs(console: Console, since: datetime) -> list[Happened]:
    words = {
        "held": "A model waits for approval",
        "rejected": "A model was rejected",
        "refused": "Data were refused",
    }
    rows = (row for row in run_rows(console.root, console.releases()) if row.at and row.at > since)
    return [Happened(row.at, words[row.outcome], f"/releases/{row.run_id}") for row in rows if row.outcome in words]


def _windows(console: Console, since: datetime) -> list[Happened]:
    drifting = tuple(outcome for outcome in OUTCOMES if outcome != "none")
    rows = index_of(console.root).windows(WindowFilter(outcomes=drifting, since=since), most=MOST)
    return [Happened(row.end, f"Drift: {OUTCOMES[row.outcome][0].lower()}", f"/production/{row.id}") for row in rows]


def _text(at: datetime | None) -> str | None:
    return at.isoformat() if at else None


def _accept(about: dict) -> dict[str, tuple[datetime | None, datetime]]:
    found = {}
    for name, (before, last) in expect_dict(about, list).items():
        found[name] = (datetime.fromisoformat(before) if before else None, datetime.fromisoformat(last))
    return found
