"""The live model: since when, by whom, and how often it was right in the last weeks."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from flows.console.production.words import OUTCOMES
from flows.console.shell.console import Console
from flows.publishing.store_away import store_away
from flows.services.runner_times import next_look
from monitoring.live.periods import Period
from monitoring.pages import live, plots
from monitoring.seen import Seen, last_seen
from tasks.releases.nothing_live import nothing_live

WEEKS = timedelta(days=14)
SHOWN = 3  # weeks
FOUND = OUTCOMES | {"waiting": "too few answers so far", "nothing": "nothing is live"}


@dataclass(frozen=True)
class Week:
    """The accuracy of a week."""

    title: str
    headline: str
    plot: str  # interval as SVG; "" where nothing was measured at random


@dataclass(frozen=True)
class LiveModel:
    """What the first page says of the live model."""

    version: str | None
    since: datetime | None = None
    by: str = ""
    why: str = ""
    nothing: str = ""  # why nothing is live
    provisional: str | None = None
    weeks: list[Week] = field(default_factory=list)
    seen: Seen | None = None  # what the monitor found last
    next_look: datetime | None = None  # None: no service runs that would look

    @property
    def seen_words(self) -> str:
        """What the monitor found last, in words."""
        return FOUND.get(self.seen.outcome, self.seen.outcome) if self.seen else ""


def live_model(console: Console, now: datetime | None = None) -> LiveModel:
    """The facts. Raises EvergreenError where the release store cannot be read."""
    now, releases = now or datetime.now(UTC), console.releases()
    seen, look = last_seen(console.root), next_look(console.root, console.params(), now)
    pointer = releases.live()
    if pointer is None:
        away = store_away(console.root, console.params(), releases)
        return LiveModel(None, nothing=away or nothing_live(releases), seen=seen, next_look=look)
    periods = live.read(live.reports_dir(console.root)).periods
    mine = [one for one in periods if one.bundle == pointer.bundle and one.start > now - WEEKS - timedelta(days=7)]
    return LiveModel(
        pointer.version,
        pointer.at,
        pointer.by,
        pointer.why,
        provisional=releases.provisional(pointer.bundle),
        weeks=[_week(one) for one in mine[-SHOWN:][::-1]],
        seen=seen,
        next_look=look,
    )


def _week(period: Period) -> Week:
    one = period.accuracy
    plot = plots.interval(one.value, one.low, one.high) if one is not None else ""
    text = live.headline(period).replace("+-", "±").replace(" %", "\u00a0%")
    return Week(f"Week of {period.start.day} {period.start:%b}", text, plot)
