"""`evergreen finish`: take what people answered so far, about data/ and production, as one commit.

Answers wait in one journal (flows.labels.journal). Here each goes where it belongs: one about a production sample into
the production log, and with its image into data/; one about a sample of data/ becomes an annotation there. A killed
call is completed by the next one: whatever it had stored already is known by then.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from pathlib import Path

from flows.labels import journal
from flows.labels.journal import Answer
from flows.labels.samples import held_ids
from flows.labels.take import Taken, take
from flows.production.label_images import ingest_images
from flows.production.labelled import Given, Labelled
from flows.production.labels import EVER, LOCATED, keep_labels
from monitoring.log.production_log import Log, open_log
from monitoring.review import queue as review_queue
from monitoring.review.queue import Queued
from tasks.common.failpoints import failpoint
from tasks.common.files import locked
from tasks.common.params import load_params
from tasks.common.paths import state_dir

TAKE_SECONDS = 3600.0


def finish(root: Path, commit: bool = True) -> Taken:
    """Take all answers of the journal as one commit. A killed call is completed by the next one.

    Answers about images that neither data/ nor the log holds are kept: the next call tries them again.
    """
    with locked(state_dir(root) / "labels.lock", TAKE_SECONDS, "taking answers about samples"):
        found = Taken()
        for _ in range(2):  # what a killed call had set aside, then what came since
            if not (answers := journal.start_taking(root)):
                journal.end_taking(root)
                continue
            answers += [one for one in journal.unplaced(root) if one not in answers]
            part = take_answers(root, answers, commit=commit)
            failpoint("labels.committed")
            journal.keep_unplaced(root, [one for one in answers if one.id in part.unknown])
            journal.end_taking(root)
            found = Taken(
                part.batch or found.batch,
                found.added + part.added,
                found.repeated + part.repeated,
                found.unknown + part.unknown,
                found.labels + part.labels,
                "; ".join(filter(None, [found.images, part.images])),
            )
        return found


def finish_idle(root: Path, idle: float = journal.IDLE_SECONDS) -> int:
    """Take the answers of the journal if none was given for `idle` seconds; returns how many were new."""
    quiet = journal.idle_seconds(root)
    if quiet is None or quiet < idle:
        return 0
    found = finish(root)
    return found.added + found.labels


def take_answers(root: Path, answers: Sequence[Answer], *, commit: bool = True) -> Taken:
    """Take `answers` into the production log and data/; `Taken.unknown` names images that neither holds."""
    log = open_log(root, load_params(root / "params.yaml"))
    asked = review_queue.asked(log)
    labels = [one for one in answers if one.retracts is None]
    ids = {one.id for one in labels}
    held = held_ids(root / "data", ids)
    located = locate(log, {name for name in ids if name in asked or name not in held}, asked)
    given = [_given(one) for one in labels if one.id in located]
    result = Labelled()
    keep_labels(log, given, asked, result)
    new = [one for one in given if one.id not in held and not one.exclude]
    told = [one for one in answers if one.id in held or one.id not in located or one.retracts]
    if new:
        ingest_images(root, log, new, located, asked, result, commit and not told)
    images = result.ingested.sentence() if result.ingested else ""
    found = Taken()
    if told:
        found = take(root, told, commit=commit, why=images)
    return Taken(found.batch, found.added, found.repeated, found.unknown, labels=result.kept, images=images)


def locate(log: Log, ids: Collection[str], asked: Mapping[str, Queued]) -> dict[str, dict]:
    """Id -> at, source, key and slices of those of `ids` that the log holds. Only hours that may hold one are read."""
    times = [asked[name].at for name in ids if name in asked]
    found = {}
    if times:
        near = min(times), max(times) + timedelta(microseconds=1)
        found = {row["id"]: row for row in log.find(ids, *near, LOCATED).to_pylist()}
    if left := set(ids) - set(found):
        found |= {row["id"]: row for row in log.find(left, *EVER, LOCATED).to_pylist()}
    return found


def _given(one: Answer) -> Given:
    label = list(one.label) if isinstance(one.label, tuple) else one.label
    return Given("", one.id, label, one.annotator or "", one.at, one.exclude, one.why, one.role)
