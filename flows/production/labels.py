"""`evergreen label`: take people's labels of production samples and of the data set.

A label of a production sample goes two ways. The production log joins it by id to the model's answer, which gives the
live accuracy. Together with the image's bytes it also goes into data/, so that the next retraining learns from it. A
label of a sample that the data set holds becomes an annotation there. All steps are idempotent.
"""

import re
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa

from flows.labels.class_reading import current_taxonomy
from flows.labels.files import LabelFile, read_labels
from flows.labels.journal import Answer
from flows.labels.resolve import resolve
from flows.labels.samples import data_classes, held_ids
from flows.labels.take import take, take_later
from flows.production.label_images import ingest_images, picked_how
from flows.production.labelled import Given, Labelled
from flows.production.queue_export import label_classes
from monitoring.log.production_log import Log, open_log
from monitoring.log.schema import DEFAULTS, late_labels_schema
from monitoring.review import queue as review_queue
from monitoring.review.queue import Queued
from tasks.common.params import Params, load_params
from tasks.common.person import person
from tasks.labels.names import Named
from tasks.sources.times import Times

LOCATED = ["id", "at", "source", "key", "slices"]
FULL_ID = re.compile(r"[0-9a-f]{64}")
QUOTA_FROM = 20  # unsolicited labels that every source may give
EVER = (datetime(1900, 1, 1, tzinfo=UTC), datetime(9999, 1, 1, tzinfo=UTC))  # cameras' clocks may be reset


def take_labels(
    root: Path,
    file: Path,
    *,
    annotator: str | None = None,
    quota: bool = True,
    new_classes: bool = False,
    reviewer: bool = False,
    ingest: bool = True,
    later: bool = False,
    commit: bool = True,
) -> Labelled:
    """Take the labels in `file` into the log and data/; a row that cannot be used is refused with its reason.

    file: see flows.labels.files; rows name samples of the production log or of the data set by id, the start of an id,
    key or path. quota: each source may give at most review.max_source_share of the unsolicited labels (but always
    QUOTA_FROM), so that a flood of feedback from one place does not teach the model. new_classes: accept labels that
    are not classes yet. reviewer: these are a reviewer's words, which override others and have no quota. ingest: also
    take the answers into data/; without it only the log gets labels. An exclusion counts in both: the image is used
    for nothing, not even for the live accuracy. later: `finish` takes the answers about samples of data/; new images
    come in now. Raises EvergreenError.
    """
    params = load_params(root / "params.yaml")
    log = open_log(root, params)
    classes = None if new_classes else known_classes(root, params)
    result = Labelled()
    times = Times(params.data.time_format, params.data.time_zone)
    read = read_labels(file, params.data.task, classes, annotator or person(root), times)
    given = _by_name(root, log, read, result, "reviewer" if reviewer else "annotator")
    ids = [one.id for one in given]
    located = {row["id"]: row for row in log.find(ids, *EVER, LOCATED).to_pylist()}
    held = held_ids(root / "data", ids) if ingest else set()
    given = [one for one in given if _can_be_used(one, located, held, result)]
    answers = [one for one in given if one.id in located]
    if quota and not reviewer:
        answers = _within_quota(answers, located, log, params.review.max_source_share, result)
    asked = review_queue.asked(log)
    keep_labels(log, answers, asked, result)
    if ingest:
        new = [one for one in answers if one.id not in held and not one.exclude]
        taken = {id(one) for one in answers}
        told = [one for one in given if one.id in held and (one.id not in located or id(one) in taken)]
        if new:
            ingest_images(root, log, new, located, asked, result, commit and (later or not told))
        if reviewer and result.ingested:  # an ingest records votes: the reviewer's word is added to these
            told += [one for one in new if one.id in held_ids(root / "data", [other.id for other in new])]
        if told:
            said = [_answer(one) for one in told]
            result.corrected = take_later(root, said) if later else take(root, said, commit=commit, why=file.name)
    return result


def known_classes(root: Path, params: Params) -> list[str] | None:
    """The names that a label may have, also those of the past, which the taxonomy reads; None: there are none yet."""
    classes = label_classes(root, params) or data_classes(root)
    return [*classes, *current_taxonomy(root).meaning] if classes else None


def _answer(one: Given) -> Answer:
    said = {"label": one.label, "exclude": one.exclude, "why": one.why}
    return Answer(id=one.id, annotator=one.annotator, role=one.role, at=one.at, **said)


def _by_name(root: Path, log: Log, read: LabelFile, result: Labelled, role: str) -> list[Given]:
    """The answers of a file, with the id of the one image that each names; others are refused with the reason."""
    result.rows, result.left, result.untimed, result.notes = read.rows, read.left, read.untimed, read.notes
    result.refused += read.refused
    texts = [name for one in read.given for name in one.names if not FULL_ID.fullmatch(name)]
    named = resolve(root, texts, log=log) if texts else Named()
    given = []
    for one in read.given:
        found = next((named.found.get(n, n) for n in one.names if n in named.found or FULL_ID.fullmatch(n)), None)
        if found is None:
            result.refused.append(f"{one.where}: {named.refused[one.names[0]]}")
        else:
            given.append(Given(one.where, found, one.label, one.annotator, one.at, one.exclude, one.why, role))
    return given


def _can_be_used(one: Given, located: dict[str, dict], held: set[str], result: Labelled) -> bool:
    if one.id not in located and one.id not in held:
        result.refused.append(
            f"{one.where}: {one.id[:70]!r} is not in the production log or the data set, or was erased from it"
        )
        return False
    return True


def _within_quota(
    given: list[Given], located: dict[str, dict], log: Log, share: float, result: Labelled
) -> list[Given]:
    """Refuse what a source gives beyond its quota of unsolicited labels; earlier labels count too.

    The share is of the labels that are taken in the end: what is refused does not raise the limit, so that a flood in
    one file does not let itself in.
    """
    asked = {entry.id for entry in review_queue.queued(log)}
    earlier = {name for name in log.labels()["id"].to_pylist() if name not in asked}
    rest = [name for name in earlier if name not in located]
    of = {row["id"]: row["source"] for row in log.find(rest, *EVER, ["id", "source"]).to_pylist()} if rest else {}
    of |= {name: row["source"] for name, row in located.items()}
    have = Counter(of.get(name) for name in earlier)
    offered = Counter(of.get(name) for name in {one.id for one in given} - asked - earlier)
    limit = _limit(offered, have, len(earlier), share)
    kept, counted = [], set(earlier)
    for one in given:
        source = of.get(one.id)
        if one.id not in asked and one.id not in counted:
            if have[source] >= limit:
                result.refused.append(
                    f"{one.where}: source {source!r} has reached its quota of {limit} unsolicited labels "
                    "(review.max_source_share); --no-quota takes them anyway"
                )
                continue
            counted.add(one.id)
            have[source] += 1
        kept.append(one)
    return kept


def _limit(offered: Counter, have: Counter, earlier: int, share: float) -> int:
    """How many labels each source may have: at most `share` of what is taken if every source keeps to that."""
    taken = offered
    while True:
        limit = max(QUOTA_FROM, int(share * (earlier + taken.total())))
        fitting = Counter({source: min(count, max(0, limit - have[source])) for source, count in taken.items()})
        if fitting == taken:
            return limit
        taken = fitting


def keep_labels(log: Log, given: list[Given], asked: Mapping[str, Queued], result: Labelled) -> None:
    """Add the labels, and exclusions as null, to the log, except those that their annotator gave before."""
    said = {(row["id"], row["annotator"], row["role"]): row["label"] for row in log.labels().to_pylist()}
    now, new = datetime.now(UTC), {}
    for one in given:
        word = (one.id, one.annotator, one.role)
        if word in said and said[word] == one.label:
            result.repeated += 1
            continue
        said[word] = one.label
        new[word] = {
            "id": one.id,
            "at": one.at or now,
            "annotator": one.annotator,
            "label": one.label,
            **DEFAULTS,
            "role": one.role,
            **picked_how(asked, one.id),
        }
        result.kept += 1
    log.add_labels(pa.Table.from_pylist(list(new.values()), schema=late_labels_schema(log.task)))
