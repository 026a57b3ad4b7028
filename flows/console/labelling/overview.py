"""What the page `/label` says: queues, shares, when a retraining starts, how people err."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

from flows.console.labelling.state import Labelling, Turn, idle_minutes
from flows.console.shell.facts import recent
from flows.labels.people import Annotator
from flows.labels.queues import QUEUES, People
from flows.labels.sitting import Left, Who
from flows.production.act import new_labels
from flows.repo.git import git
from monitoring.log.production_log import Log
from monitoring.review.assignments import Workload, assignments, workloads
from tasks.common.params import DecideParams

TITLES = {"production": "Production", "issues": "Label issues", "audit": "Audit"}
PURPOSE = {
    "production": "Images that the monitor picked because they teach the model most.",
    "issues": "Images of the data set whose label a person should look at.",
    "audit": "Images drawn at random. Only their labels say how good the model is.",
}
LABELS_SECONDS = 10.0  # between looks at how many labels are new


@dataclass(frozen=True)
class QueueCard:
    """One queue on the page."""

    queue: str
    left: Left
    done: int  # answers of this person in this sitting

    @property
    def title(self) -> str:
        """Its name."""
        return TITLES[self.queue]

    @property
    def purpose(self) -> str:
        """What it is for."""
        return PURPOSE[self.queue]

    @property
    def share(self) -> float:
        """How much of what this person could do in this sitting is done, 0..1."""
        return self.done / max(self.done + self.left.free, 1)


@dataclass(frozen=True)
class Unfinished:
    """Answers that wait in the journal."""

    all: int
    mine: int
    minutes: float | None  # until they are taken by themselves


@dataclass(frozen=True)
class Retrain:
    """How many new labels there are, and how many start a retraining."""

    known: int  # since the live version
    waiting: int  # answers about production in the journal: they count when the sitting is finished
    alone: int  # so many start one without any drift
    with_drift: int  # so many are needed when the images have changed

    @property
    def left(self) -> int:
        """What is missing until a retraining starts by itself."""
        return max(0, self.alone - self.known - self.waiting)

    @property
    def left_with_drift(self) -> int:
        """What is missing while images drift."""
        return max(0, self.with_drift - self.known - self.waiting)

    def sentence(self) -> str:
        """Say it."""
        have = f"{self.known + self.waiting} new labels since the live version"
        if not self.left:
            return f"{have}: enough for a retraining, which starts with the next look of the monitor."
        drift = f"with {self.left_with_drift} more" if self.left_with_drift else "now"
        return f"{have}. A retraining starts with {self.left} more; if the images drift, {drift}."


@dataclass(frozen=True)
class Overview:
    """All of the page."""

    cards: Sequence[QueueCard]
    unfinished: Unfinished
    retrain: Retrain | None  # None: nothing is live
    work: Sequence[Workload]  # who has what until when
    people: People


def overview_of(found: Labelling, who: Who) -> Overview:
    """The page for one person."""
    done, now = found.sittings.done(who.name), datetime.now(UTC)
    turns = {queue: found.turn(queue, who) for queue in QUEUES}
    first = next(iter(turns.values()))
    cards = [QueueCard(queue, turn.left, done.get(queue, 0)) for queue, turn in turns.items()]
    return Overview(
        cards,
        unfinished_of(found.root, first, who),
        retrain_of(found, first.log, turns),
        work_of(first.log, turns, now.date()),
        found.queues.people(found.params),
    )


def unfinished_of(root: Path, turn: Turn, who: Who) -> Unfinished:
    """The answers that wait in the journal."""
    mine = sum(one.annotator == who.name for one in turn.pending)
    return Unfinished(len(turn.pending), mine, idle_minutes(root))


def retrain_of(found: Labelling, log: Log, turns: dict[str, Turn]) -> Retrain | None:
    """How far it is to the next retraining; None if nothing is live."""
    decide: DecideParams = found.params.decide

    def look() -> int | None:
        live = found.console.releases().live()
        return None if live is None else new_labels(found.root, log, live.at)

    head = git(found.root, "rev-parse", "HEAD")  # labels count once they are committed
    known = recent(("new labels", found.root, head, tuple(log.label_keys())), look, LABELS_SECONDS)
    if known is None:
        return None
    asked = {one.id for queue in ("production", "audit") for one in found.queues.entries(queue, found.params, log)}
    waiting = len({one.id for one in turns["production"].pending} & asked)
    return Retrain(known, waiting, decide.new_labels, decide.min_new_labels)


def work_of(log: Log, turns: dict[str, Turn], day: date) -> list[Workload]:
    """Who was assigned what of all that waits, the earliest due date first."""
    waiting = [one.id for turn in turns.values() for one in turn.open]
    return workloads(assignments(log.store), waiting, day)


def people_rows(people: People) -> list[tuple[str, int, str, str]]:
    """(name, labels, how often right, second looks) of each annotator."""
    return [_row(one) for one in people.annotators]


def _row(one: Annotator) -> tuple[str, int, str, str]:
    guess = one.estimated
    right = f"{guess.right:.1%} ({guess.low:.1%} to {guess.high:.1%})" if guess else "not known"
    looks = one.second_looks
    return one.name, one.labels, right, looks.sentence() if looks.looks else "none yet"
