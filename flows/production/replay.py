"""`evergreen replay`: answer captured traffic again with another model, and compare.

The offline form of a shadow: images of the production log, a model that need not have answered them, no traffic. The
log is only read. Answers are compared with those that were given, or with a second model's (`against`).
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
from pydantic import AwareDatetime

from flows.labels.class_reading import current_taxonomy
from flows.production.any_bundle import bundle_of
from flows.publishing.history import open_project
from monitoring.live.labels import Truth, common_reading, truths
from monitoring.live.two_models import Pair, Said, TwoModels, compare_answers
from monitoring.log.production_log import Log, open_log
from monitoring.review.queue import queued
from tasks.common.checks import Frozen
from tasks.common.errors import EvergreenError
from tasks.common.params import Params

MOST = 2_000  # images that are answered again
BLOCK = 32  # images read and answered at once
MOMENT = timedelta(microseconds=1)
COLUMNS = ("id", "at", "source", "key", "version", "reason", "prediction", "confidence", "needs_review", "latency_ms")
COLUMNS = (*COLUMNS, "phash")
GIVEN = "the answers that were given"


class Replay(Frozen):
    """What came of one replay."""

    model: str  # as asked for
    bundle: str
    against: str  # GIVEN, or a model
    since: AwareDatetime
    until: AwareDatetime
    answers: int  # in that time, of the versions that were asked for
    versions: dict[str, int]  # version -> answers replayed that it had given
    without_image: int  # the log keeps only their thumbnails, or has lost them
    picked: int  # labels left out because the model that answered was unsure of the image
    found: TwoModels
    unreadable_files: list[str]  # of the log


def replay(
    root: Path,
    name: str,
    *,
    since: datetime,
    until: datetime,
    against: str | None = None,
    given_by: str | None = None,
    source: str | None = None,
    most: int = MOST,
    step: Callable[[int, int], None] = lambda done, of: None,
) -> Replay:
    """Answer the images logged in [since, until) again with the model `name`, and compare.

    name, against: a version, a run, "live" or a folder with a bundle. given_by: only answers of this version. source:
    only of this camera or site. most: a random sample of so many images, and all with a label, at most as many again.
    Raises EvergreenError.
    """
    from serving.predictor import Predictor

    if since >= until:
        raise EvergreenError(f"nothing lies between {since:%Y-%m-%d %H:%M} and {until:%Y-%m-%d %H:%M} UTC")
    params, releases = open_project(root)
    log = open_log(root, params)
    model = Predictor(bundle_of(root, releases, name))
    other = Predictor(bundle_of(root, releases, against)) if against else None
    known = truths(log.labels(), queued(log), current_taxonomy(root))
    fair = {image: one for image, one in known.items() if not one.hard}
    sample, labelled, damaged, total = _rows(log, fair, since, until, given_by, source, most)
    rows = {row["id"]: row for row in [*labelled, *sample]}
    if not rows:
        whose = f" of {given_by}" if given_by else ""
        raise EvergreenError(
            f"the production log has no answers{whose} from {since:%Y-%m-%d %H:%M} to {until:%Y-%m-%d %H:%M} UTC"
            f"{f' of source {source}' if source else ''}: name another time with --since and --until"
        )
    answered = _answered(log, rows, [model, *([other] if other else [])], step)
    pairs = _pairs(root, rows, answered, fair, second=other is not None)
    chosen = {row["id"] for row in sample}
    with_truth = [pair for pair in pairs if pair.truth is not None]
    found = compare_answers(
        [pair for pair in pairs if pair.id in chosen],
        with_truth,
        confidence=params.gate.confidence,
        groups=_groups(params, [rows[pair.id]["phash"] for pair in with_truth]),
    )
    versions: dict[str, int] = {}
    for pair in pairs:
        by = rows[pair.id]["version"] or "unknown"
        versions[by] = versions.get(by, 0) + 1
    return Replay(
        model=name,
        bundle=model.digest,
        against=against or GIVEN,
        since=since,
        until=until,
        answers=total,
        versions=versions,
        without_image=len(rows) - len(answered),
        picked=sum(name in known and known[name].hard for name in rows),
        found=found,
        unreadable_files=damaged,
    )


def _rows(
    log: Log,
    fair: Mapping[str, Truth],
    since: datetime,
    until: datetime,
    given_by: str | None,
    source: str | None,
    most: int,
) -> tuple[list[dict], list[dict], list[str], int]:
    """(a random sample of the answers, labelled ones, unreadable files, answers in all), each image once."""

    def kept(rows: Sequence[dict]) -> dict[str, dict]:
        return {
            row["id"]: row
            for row in rows
            if row["reason"] is None and given_by in (None, row["version"]) and source in (None, row["source"])
        }

    names, damaged, _ = log.window(since, until, ["id", "at", "version", "source", "reason"])
    places = kept(names.to_pylist())
    drawn = sorted(places, key=lambda name: name[-16:])[:most]  # ids are hashes: their ends are random numbers
    sample = kept(log.answers(drawn, since, until, COLUMNS).to_pylist())
    labelled = sorted(fair.keys() & places.keys(), key=lambda name: places[name]["at"])[-most:]
    known = kept(log.answers(labelled, since, until, COLUMNS).to_pylist())
    return list(sample.values()), list(known.values()), damaged, len(places)


def _answered(
    log: Log, rows: Mapping[str, dict], models: Sequence, step: Callable[[int, int], None]
) -> dict[str, list[Said]]:
    """Id -> one answer of each of `models`, of the images that the log still has."""
    found: dict[str, list[Said]] = {}
    for images in _images(log, rows):
        for model in models:
            began = time.perf_counter()
            answers = model.predict(list(images.values()))
            each = (time.perf_counter() - began) * 1e3 / len(images)
            for image, answer in zip(images, answers, strict=True):
                label = list(answer.label) if isinstance(answer.label, tuple) else answer.label
                found.setdefault(image, []).append(Said(label, answer.confidence, answer.needs_review, each))
        step(len(found), len(rows))
    return found


def _images(log: Log, rows: Mapping[str, dict]) -> Iterator[dict[str, bytes]]:
    """Id -> encoded image of `rows`, a few at a time; one file of the log is in memory."""
    times = [row["at"] for row in rows.values()]
    done: set[str] = set()
    for table in log.matching(rows, min(times), max(times) + MOMENT, ["id", "image"]):
        new = {row["id"]: row["image"] for row in table.to_pylist() if row["image"] and row["id"] not in done}
        done |= new.keys()
        names = list(new)
        for first in range(0, len(names), BLOCK):
            yield {name: new[name] for name in names[first : first + BLOCK]}


def _pairs(
    root: Path, rows: Mapping[str, dict], answered: Mapping[str, list[Said]], fair: Mapping[str, Truth], second: bool
) -> list[Pair]:
    """Both answers and the truth of each image, in names that all can express."""
    pairs = []
    for image, answers in answered.items():
        row = rows[image]
        given = Said(row["prediction"], row["confidence"], row["needs_review"], row["latency_ms"])
        truth = fair[image].label if image in fair else None
        pairs.append(Pair(image, answers[1] if second else given, answers[0], truth))
    columns = [[pair.old.label for pair in pairs], [pair.new.label for pair in pairs], [pair.truth for pair in pairs]]
    read = common_reading(current_taxonomy(root), *columns)
    return [
        pair._replace(
            old=pair.old._replace(label=read(pair.old.label)),
            new=pair.new._replace(label=read(pair.new.label)),
            truth=read(pair.truth),
        )
        for pair in pairs
    ]


def _groups(params: Params, hashes: Sequence[int | None]) -> np.ndarray:
    """(L,) numbers: images whose perceptual hashes are nearly the same are one observation."""
    from tasks.inspection.near_duplicates import clusters, near_pairs

    phash = np.array([value or 0 for value in hashes], np.uint64)
    known = np.flatnonzero([value is not None for value in hashes])
    pairs = near_pairs(phash[known], np.zeros((len(known), 1), np.uint8), params.inspect.near_duplicate_bits, 0)
    groups = np.arange(len(phash))
    groups[known] = known[clusters(len(known), pairs)] if len(known) else known
    return groups


def span(since: str | None, until: str | None, newest: datetime | None, hours: float) -> tuple[datetime, datetime]:
    """The time that two options name; the end defaults to the `newest` answer, the start to `hours` before the end."""
    end = _time(until, "--until") if until else (newest or datetime.now(UTC)) + MOMENT
    return (_time(since, "--since") if since else end - timedelta(hours=hours)), end


def _time(text: str, option: str) -> datetime:
    try:
        found = datetime.fromisoformat(text.strip())
    except ValueError:
        raise EvergreenError(
            f"{option} {text[:60]!r} is not a time: expected a date (2026-12-01) or a date and time in UTC "
            "(2026-12-01T08:00)"
        ) from None
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
