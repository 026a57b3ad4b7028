"""How much waits for people: images to label, and refused batches."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from flows.console.labelling.state import Labelling, who_of
from flows.console.people.roles import Person
from flows.console.shell.console import Console
from flows.labels.queues import QUEUES
from flows.repo.tombstones import in_force

RECENT = timedelta(days=30)  # a batch that was refused earlier is not shown as waiting


@dataclass(frozen=True)
class LabelCounts:
    """Images that wait in each of flows.labels.queues.QUEUES."""

    production: int
    issues: int
    audit: int


def label_counts(labelling: Labelling, person: Person) -> LabelCounts:
    """What this person can be shown; the queues are read again only after a file of theirs has changed."""
    who = who_of(person)
    return LabelCounts(**{name: labelling.turn(name, who).left.free for name in QUEUES})


def refused_batches(console: Console) -> list[tuple[str, str, datetime | None]]:
    """(batch, why, when) of each batch that a run refused in the last 30 days, the newest first.

    Without those that the next run judges again, because the rules for data have changed since.
    """
    oldest, found = datetime.now(UTC) - RECENT, in_force(console.releases().tombstones(), console.params())
    by_runs = ((batch, about["why"], _time(about.get("at"))) for batch, about in found.items() if about.get("settings"))
    return [row for row in by_runs if row[2] is None or row[2] > oldest][::-1]


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
