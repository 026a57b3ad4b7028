"""`evergreen queue`: write the samples that wait for a label, in forms to label them.

A production sample is asked for once; the data set's label issues until someone has decided. A part of either can be
assigned to a person with a due date. `flows.production.labels` takes the labels back.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from flows.labels.class_reading import current_taxonomy
from flows.labels.data_queue import DataQueue
from flows.labels.define import guides
from flows.labels.issues_queue import find_issues, images
from flows.labels.samples import data_classes
from flows.repo.copies import record_copies
from monitoring.log.production_log import Log, open_log
from monitoring.review import queue as review_queue
from monitoring.review.asked import Asked, of_queued
from monitoring.review.assignments import assign, assignments, select, workloads
from monitoring.review.forms import Forms, write
from monitoring.review.page import Frame
from monitoring.review.queue import Queued
from tasks.common.errors import EvergreenError
from tasks.common.params import Params, load_params
from tasks.common.person import person
from tasks.releases.bundle import read
from tasks.releases.store import cached_bundle, open_store


@dataclass(frozen=True)
class Share:
    """Which part of a queue: whose, and how much of it."""

    assign: str | None = None  # first assign what nobody has yet to this person
    due: date | None = None  # until when
    person: str | None = None  # only what this person was assigned
    most: int | None = None  # at most so many


ALL = Share()
NO_ISSUE = (
    "Annotators agree, no near-duplicates have different labels, and the newest run found no label that looks wrong."
)


def export_queue(
    root: Path,
    *,
    pick_hours: float | None = None,
    csv_file: Path | None = None,
    label_studio_file: Path | None = None,
    html: Path | None = None,
    home: str | None = None,
    share: Share | None = None,
) -> tuple[list[Queued], list[Queued]]:
    """Write the samples that wait for a label; returns (those samples, the ones picked by this call).

    pick_hours: first pick from the answers of this many hours before the newest one. csv_file: a table to fill in, with
    the images in a folder of the same name. label_studio_file: tasks, with the labelling interface next to them (.xml).
    html: a page to label on; home: the address of its back link. share: which part of it. Raises EvergreenError.
    """
    share = share or ALL
    params = load_params(root / "params.yaml")
    log = open_log(root, params)
    picked = []
    if pick_hours is not None and (last := log.last_at()) is not None:
        end = last + timedelta(microseconds=1)
        because = f"requested by {person(root)}"
        picked = review_queue.enqueue(log, params.review, end - timedelta(hours=pick_hours), end, because)
    entries = review_queue.waiting(log)
    data = DataQueue(root, params)
    chosen = set(choose(root, log, [*(entry.id for entry in entries), *(entry.id for entry in data.entries)], share))
    entries = [entry for entry in entries if entry.id in chosen]
    count = len(entries) + sum(entry.id in chosen for entry in data.entries)

    def shown() -> Iterator[tuple[Asked, bytes | None]]:
        yield from ((of_queued(entry), image) for entry, image in review_queue.images(log, entries))
        yield from ((entry, image) for entry, image in data.shown() if entry.id in chosen)

    forms = Forms(csv_file, label_studio_file, html)
    if forms.files:
        if home is None:  # the pages of `evergreen up` are shown and gone
            record_copies(root, "queue", forms.written)
        write(forms, count, shown, _frame(root, params, share, chosen, home=home))
    return entries, picked


def export_issues(root: Path, forms: Forms, share: Share) -> list[Asked]:
    """Write the data set's label issues as `forms`; returns them, the most urgent first. Raises EvergreenError."""
    params = load_params(root / "params.yaml")
    entries = find_issues(root, params)
    chosen = set(choose(root, open_log(root, params), [entry.id for entry in entries], share))
    entries = [entry for entry in entries if entry.id in chosen]
    if forms.files:
        record_copies(root, "queue", forms.written)
        frame = _frame(root, params, share, chosen, reviewer=True, empty=NO_ISSUE)
        write(forms, len(entries), lambda: images(root, entries), frame)
    return entries


def choose(root: Path, log: Log, waiting: list[str], share: Share) -> list[str]:
    """The ids among `waiting` that `share` asks for, in their order. Assigns them if it says so."""
    if share.due is not None and share.assign is None:
        raise EvergreenError("--due needs --assign NAME: who labels them until then")
    if share.assign is None:
        found = assignments(log.store) if share.person else []
        return select(found, waiting, share.person, new=False, most=share.most)
    chosen = select(assignments(log.store), waiting, None, new=True, most=share.most)
    if chosen:
        assign(log.store, share.assign, share.due, chosen, person(root))
    return chosen


def assigned_lines(root: Path, params: Params) -> list[str]:
    """What waits for which person until when, for the terminal; overdue parts say so."""
    log = open_log(root, params)
    if not (found := assignments(log.store)):
        return []
    waiting = [entry.id for entry in (*review_queue.waiting(log), *DataQueue(root, params).entries)]
    if (root / "data" / "dataset.json").is_file():
        waiting += [entry.id for entry in find_issues(root, params)]
    return [load.sentence() for load in workloads(found, waiting, datetime.now(UTC).date())]


def _first_due(root: Path, params: Params, person: str, ids: Collection[str]) -> date | None:
    """The earliest day on which `person` must have labelled some of `ids`; None if no assignment names one."""
    found = workloads(assignments(open_log(root, params).store), ids, datetime.now(UTC).date())
    return min((load.due for load in found if load.person == person and load.due), default=None)


def _frame(root: Path, params: Params, share: Share, ids: Collection[str], **options) -> Frame:
    classes, multilabel = label_classes(root, params) or data_classes(root), params.data.task == "multilabel"
    person = (share.assign or share.person or "").strip()
    day = share.due or (None if share.assign or not person else _first_due(root, params, person, ids))
    due = f"For {person}" + (f", until {day.isoformat()}" if day else "") if person else ""
    options["guides"] = guides(root, classes, params.images.max_pixels)
    return Frame(classes, multilabel, params.images.max_pixels, person=person, due=due, **options)


def label_classes(root: Path, params: Params) -> list[str]:
    """List the allowed labels: data.classes, else those of the live model, as they are called today, and new ones.

    [] if there is neither.
    """
    taxonomy, known = current_taxonomy(root), params.data.classes
    if not known:
        releases = open_store(params.store, root)
        if (pointer := releases.live()) is None:
            return []
        known = read(cached_bundle(releases, pointer.bundle, root))["classes"]
    return list(dict.fromkeys([*taxonomy.current(known), *taxonomy.classes]))
