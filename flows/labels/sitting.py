"""A sitting: which image a person is shown next, and what becomes of their answer.

    shown = next_images(entries, who, ...)   # leased to this person for ten minutes
    give(root, sittings, entry, who, ...)    # in the journal, on disk, when it returns
    take_back(root, sittings, name)          # the last answer

N is the number of entries.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

from flows.labels import journal
from flows.labels.journal import Answer
from flows.labels.queues import Entry
from flows.labels.sitting_store import Hidden, Said, Sittings
from flows.labels.undo import annotations_of
from monitoring.review.assignments import Assignment
from tasks.common.errors import EvergreenError
from tasks.labels.annotations import Label, annotation_key, standing

MOST_TEXT = 200  # characters of a class
WITHDRAWN, RETRACTED, STANDS = "withdrawn", "retracted", "stands"


@dataclass(frozen=True)
class Who:
    """The person who labels."""

    name: str
    reviewer: bool = False  # their word about a label issue overrides others


@dataclass(frozen=True)
class Left:
    """How many images of a queue wait, and for whom. N entries."""

    all: int  # that nobody has answered
    free: int  # that this person can be shown now
    mine: int  # of these, assigned to this person
    due: date | None  # the first day on which some of `mine` are due
    others: int  # assigned to others
    looked_at: int  # others look at them
    put_aside: int  # this person skipped them, or asked somebody else


def open_entries(entries: Sequence[Entry], pending: Collection[str], hidden: Hidden) -> list[Entry]:
    """The entries that nobody has answered yet. pending: ids of answers that wait in the journal."""
    done = {*pending, *hidden.said}
    return [entry for entry in entries if entry.id not in done]


def for_person(entries: Sequence[Entry], who: Who, holders: Mapping[str, Assignment], hidden: Hidden) -> list[Entry]:
    """The open `entries` that this person can be shown, those assigned to them first, the earliest due date leading.

    Left out are images that others look at or were assigned to, and what the person skipped or passed on.
    """
    away = hidden.leased | hidden.skipped | hidden.passed
    found: list[tuple[tuple[bool, date], Entry]] = []
    for entry in entries:
        held = holders.get(entry.id)
        mine = held is not None and held.person == who.name
        free = held is None or mine or entry.id in hidden.freed
        if free and entry.id not in away and not entry.not_for(who.name):
            found.append(((not mine, (held.due if mine and held else None) or date.max), entry))
    return [entry for _, entry in sorted(found, key=lambda pair: pair[0])]


def count_left(entries: Sequence[Entry], who: Who, holders: Mapping[str, Assignment], hidden: Hidden) -> Left:
    """How many of the open `entries` wait for whom."""
    free = for_person(entries, who, holders, hidden)
    mine = [holders[one.id] for one in free if one.id in holders and holders[one.id].person == who.name]
    theirs = [one for one in entries if one.id in holders and holders[one.id].person != who.name]
    return Left(
        all=len(entries),
        free=len(free),
        mine=len(mine),
        due=min((one.due for one in mine if one.due), default=None),
        others=sum(one.id not in hidden.freed for one in theirs),
        looked_at=sum(one.id in hidden.leased for one in entries),
        put_aside=sum(one.id in hidden.skipped | hidden.passed for one in entries),
    )


def next_images(
    sittings: Sittings, who: Who, free: Sequence[Entry], count: int, now: datetime | None = None
) -> list[Entry]:
    """The first `count` of `free` that nobody else took in the meantime; they are leased to this person."""
    taken = sittings.lease(who.name, [one.id for one in free], count, now)
    by_id = {one.id: one for one in free}
    return [by_id[name] for name in taken]


def give(
    root: Path,
    sittings: Sittings,
    entry: Entry,
    who: Who,
    label: Label = None,
    *,
    exclude: bool = False,
    why: str = "",
    now: datetime | None = None,
) -> Answer:
    """Record what a person says about the image of `entry`: the answer is on disk when this returns.

    An answer that came before, because the browser heard no reply and sent it again, is not recorded twice.
    """
    role = "reviewer" if entry.queue == "issues" and who.reviewer else "annotator"
    answer = Answer(
        entry.id,
        label,
        exclude=exclude,
        annotator=who.name,
        role=role,
        at=now or datetime.now(UTC),
        why=why,
        model_version=None if entry.blind else entry.asked.version,
    )
    before = next((one for one in reversed(journal.pending(root)) if _by(one, who.name, entry.id)), None)
    if before is not None and _word(before) == _word(answer):
        return before
    journal.record(root, [answer])
    sittings.add(who.name, entry.queue, answer, now)
    return answer


def take_back(root: Path, sittings: Sittings, who: str) -> tuple[Said, str] | None:
    """Take back the last answer of this person; returns it and what became of it, None if there is none.

    WITHDRAWN: it left the journal. RETRACTED: it is in data/, and the next batch takes it back. STANDS: it is the label
    that a production sample came into data/ with, which stands until the person gives another. Raises EvergreenError
    for one that is being taken at this moment.
    """
    for said in sittings.said(who, 1):
        waits = [one for one in journal.pending(root) if _by(one, who, said.answer.id) and one.at == said.answer.at]
        became = WITHDRAWN
        if waits and not any([journal.withdraw(root, one) for one in waits]):
            raise EvergreenError("this answer is being taken at this moment: take it back when that is done")
        if not waits:
            became = RETRACTED if said.queue == "issues" and _retract(root, said.answer) else STANDS
        sittings.drop(said)
        return said, became
    return None


def _retract(root: Path, answer: Answer) -> bool:
    """Take back an answer that was taken into data/, with the next batch; False where data/ does not hold it."""
    if not (root / "data" / "dataset.json").is_file():
        return False
    mine = ("annotator", "role", "at")
    rows = standing(annotations_of(root, answer.id))
    keys = [annotation_key(row) for row in rows if all(row[name] == getattr(answer, name) for name in mine)]
    back = {"annotator": answer.annotator, "role": answer.role, "why": "taken back"}
    journal.record(root, [Answer(answer.id, retracts=key, **back) for key in keys])
    return bool(keys)


def check_label(label: Label, classes: Sequence[str], multilabel: bool, also: Collection[str] = ()) -> Label:
    """`label` if it can be one. also: names that are accepted besides `classes`. Raises EvergreenError."""
    names = label if isinstance(label, list) else [label]
    if multilabel != isinstance(label, list):
        raise EvergreenError(
            f"{label!r} cannot be a label: expected {'a list of classes' if multilabel else 'one class'}"
        )
    for name in names:
        if classes and name not in classes and name not in also:
            raise EvergreenError(f"{str(name)[:60]!r} is not a class of this project: reload the page and answer again")
        if not isinstance(name, str) or not name.strip() or len(name) > MOST_TEXT:
            raise EvergreenError(f"a class has a name of 1 to {MOST_TEXT} characters")
    return sorted(set(names)) if multilabel else label


def _by(answer: Answer, who: str, image: str) -> bool:
    return answer.annotator == who and answer.id == image and answer.retracts is None


def _word(answer: Answer) -> tuple:
    label = tuple(answer.label) if isinstance(answer.label, list) else answer.label
    return label, answer.exclude, answer.role
