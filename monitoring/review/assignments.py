"""Who labels which samples until when: kept beside the production log.

    assignments/<time>-<hash>.json   one assignment: a person, a due date, and the samples

The newest assignment of a sample counts. A sample is done when its person's answer, or anyone's, is there: callers say
which samples still wait.
"""

import json
import logging
from collections.abc import Collection, Sequence
from datetime import UTC, date, datetime
from typing import NamedTuple

from pydantic import AwareDatetime, ValidationError

from tasks.common.checks import Frozen
from tasks.common.errors import DataError
from tasks.common.files import sha256_bytes
from tasks.storage.blobs import Store

NAME_LENGTH = 200  # characters
FOLDER = "assignments/"

logger = logging.getLogger("evergreen.review")


class Assignment(Frozen):
    """Samples that one person was asked to label until the end of a day (UTC)."""

    person: str
    due: date | None  # None: no due date
    ids: tuple[str, ...]
    at: AwareDatetime
    by: str  # who assigned them


class Workload(NamedTuple):
    """What still waits for one person with one due date."""

    person: str
    due: date | None
    ids: tuple[str, ...]
    overdue: bool

    def sentence(self) -> str:
        """One line for the terminal."""
        count = "1 sample" if len(self.ids) == 1 else f"{len(self.ids)} samples"
        if self.due is None:
            return f"{self.person}: {count}"
        return f"{self.person}: {count} {'OVERDUE since' if self.overdue else 'due'} {self.due.isoformat()}"


def assign(store: Store, person: str, due: date | None, ids: Sequence[str], by: str) -> Assignment:
    """Record that `person` labels the samples `ids` until `due`. Raises DataError for an unusable name or date."""
    person, now = person.strip(), datetime.now(UTC)
    if not person or len(person) > NAME_LENGTH or not person.isprintable():
        raise DataError(f"--assign {person[:60]!r}: expected a name of 1 to {NAME_LENGTH} printable characters")
    if due is not None and due < now.date():
        raise DataError(f"--due {due.isoformat()} has passed: expected today ({now.date().isoformat()}, UTC) or later")
    made = Assignment(person=person, due=due, ids=tuple(ids), at=now, by=by)
    content = json.dumps(made.model_dump(mode="json")).encode()
    store.create(f"{FOLDER}{now:%Y%m%dT%H%M%S.%fZ}-{sha256_bytes(content)[:16]}.json", content)
    return made


def assignments(store: Store) -> list[Assignment]:
    """All assignments, oldest first. Damaged files are skipped and logged."""
    found = []
    for key in store.list(FOLDER):
        content = store.read(key)
        try:
            found += [Assignment.model_validate_json(content[0])] if content else []
        except ValidationError as error:
            logger.warning("%s in the production log is skipped: %s", key, error)
    return sorted(found, key=lambda one: one.at)


def holders(found: Sequence[Assignment]) -> dict[str, Assignment]:
    """The assignment that counts for each sample."""
    return {name: one for one in found for name in one.ids}


def workloads(found: Sequence[Assignment], waiting: Collection[str], today: date) -> list[Workload]:
    """What of `waiting` (ids) is assigned, by person and due date; the earliest due first."""
    open_: dict[tuple[str, date | None], list[str]] = {}
    wait = set(waiting)
    for name, one in holders(found).items():
        if name in wait:
            open_.setdefault((one.person, one.due), []).append(name)
    order = sorted(open_.items(), key=lambda item: (item[0][1] or date.max, item[0][0]))
    return [Workload(person, due, tuple(ids), due is not None and due < today) for (person, due), ids in order]


def select(
    found: Sequence[Assignment], waiting: Sequence[str], person: str | None, new: bool, most: int | None = None
) -> list[str]:
    """The ids among `waiting`, in that order, to show: those of `person`, or with `new` those of nobody yet.

    most: at most so many. Neither `person` nor `new`: all.
    """
    held = holders(found)
    if new:
        chosen = [name for name in waiting if name not in held]
    elif person is not None:
        chosen = [name for name in waiting if name in held and held[name].person == person]
    else:
        chosen = list(waiting)
    return chosen[:most]
