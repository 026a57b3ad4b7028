"""How much waits for people: images to label, and refused batches."""

import functools
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from flows.console.shell.console import Console
from flows.labels.queues import Queues

RECENT = timedelta(days=30)  # a batch that was refused earlier waits for nobody any more


@dataclass(frozen=True)
class LabelCounts:
    """Images that wait in each queue."""

    production: int
    issues: int
    audit: int


def label_counts(console: Console) -> LabelCounts:
    """The numbers; read again only after a file of theirs has changed."""
    queues, params, log = _queues(console.root), console.params(), console.log()
    return LabelCounts(**{name: len(queues.entries(name, params, log)) for name in ("production", "issues", "audit")})


@functools.cache
def _queues(root: Path) -> Queues:
    return Queues(root)


def refused_batches(console: Console) -> list[tuple[str, str, datetime | None]]:
    """(batch, why, when) of each batch that a run refused in the last 30 days, the newest first."""
    oldest, found = datetime.now(UTC) - RECENT, console.releases().tombstones()
    by_runs = ((batch, about["why"], _time(about.get("at"))) for batch, about in found.items() if about.get("settings"))
    return [row for row in by_runs if row[2] is None or row[2] > oldest][::-1]


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
