"""What the labelling pages keep between requests: the queues as last read, who looks at what."""

import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from fastapi import FastAPI, Request

from flows.console.people.roles import Person
from flows.console.shell.console import Console
from flows.console.shell.facts import recent
from flows.labels import journal
from flows.labels.class_reading import current_taxonomy
from flows.labels.journal import Answer
from flows.labels.queues import QUEUES, Entry, Queues
from flows.labels.samples import data_classes
from flows.labels.sitting import Left, Who, count_left, for_person, next_images, open_entries
from flows.labels.sitting_images import Likelihoods
from flows.labels.sitting_store import Hidden, Sittings
from flows.production.queue_export import label_classes
from monitoring.log.production_log import Log
from monitoring.review.assignments import Assignment
from tasks.common.errors import EvergreenError
from tasks.common.params import Params
from tasks.labels.taxonomy import Taxonomy

AHEAD = 9  # images that a page holds: one is shown, the others are loaded
CLASS_SECONDS = 10.0  # between looks at which classes there are

_lock = threading.Lock()


@dataclass
class Labelling:
    """One project's queues, for all requests and threads."""

    console: Console
    queues: Queues
    sittings: Sittings
    likelihoods: Likelihoods

    @property
    def root(self) -> Path:
        """The project's folder."""
        return self.console.root

    @property
    def params(self) -> Params:
        """Its settings."""
        return self.console.params()

    @property
    def multilabel(self) -> bool:
        """Whether an image has a set of labels."""
        return self.params.data.task == "multilabel"

    def classes(self) -> tuple[list[str], Taxonomy]:
        """The classes that a person may choose, and how names of the past are read."""

        def look() -> tuple[list[str], Taxonomy]:
            found = label_classes(self.root, self.params) or data_classes(self.root)
            return found, current_taxonomy(self.root)

        return recent(("label classes", self.root), look, CLASS_SECONDS)

    def warm(self) -> None:
        """Read the queues before the first page asks for them: in a large project that takes seconds."""
        with suppress(EvergreenError, OSError):  # the page says it
            for queue in QUEUES:
                self.queues.entries(queue, self.params, self.console.log())

    def turn(self, queue: str, who: Who) -> "Turn":
        """What waits in `queue` for this person at this moment."""
        log = self.console.log()
        pending = journal.pending(self.root)
        hidden = self.sittings.hidden(who.name)
        entries = self.queues.entries(queue, self.params, log)
        answered = {one.id for one in pending if one.retracts is None}
        left = open_entries(entries, answered, hidden)
        return Turn(queue, left, who, self.queues.holders(log), hidden, pending, log)


@dataclass(frozen=True)
class Turn:
    """What waits in one queue for one person at one moment."""

    queue: str
    open: Sequence[Entry]  # that nobody has answered
    who: Who
    holders: dict[str, Assignment]
    hidden: Hidden
    pending: Sequence[Answer]  # in the journal
    log: Log

    @property
    def free(self) -> list[Entry]:
        """What this person can be shown, in order."""
        return for_person(self.open, self.who, self.holders, self.hidden)

    @property
    def left(self) -> Left:
        """How much that is."""
        return count_left(self.open, self.who, self.holders, self.hidden)

    def next(self, sittings: Sittings, count: int = AHEAD, without: Sequence[str] = ()) -> list[Entry]:
        """The next images, which are this person's now. without: ids that their page has already."""
        here = set(without)
        return next_images(sittings, self.who, [one for one in self.free if one.id not in here], count)


def labelling_of(request: Request) -> Labelling:
    """The labelling of the project that answers `request`."""
    return labelling_in(request.app)


def labelling_in(app: FastAPI) -> Labelling:
    """The labelling of the project that `app` serves."""
    console: Console = app.state.console
    with _lock:
        if not hasattr(app.state, "labelling"):
            root = console.root
            likelihoods = Likelihoods(root, console.releases())
            app.state.labelling = Labelling(console, Queues(root), Sittings(root), likelihoods)
        return app.state.labelling


def who_of(person: Person) -> Who:
    """A signed-in person as one who labels: an approver's word about a label issue is a reviewer's."""
    return Who(person.name, person.may("approver"))


def idle_minutes(root: Path) -> float | None:
    """Minutes until waiting answers are taken by themselves; None without any."""
    quiet = journal.idle_seconds(root)
    return None if quiet is None else max(0.0, timedelta(seconds=journal.IDLE_SECONDS - quiet) / timedelta(minutes=1))
