"""`evergreen label`: take people's labels of production samples and of the data set.

A label of a production sample goes two ways. The production log joins it by id to the model's answer, which gives the
live accuracy. Together with the image's bytes it also goes into data/, so that the next retraining learns from it. A
label of a sample that the data set holds becomes an annotation there. All steps are idempotent.
"""

import getpass
import re
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from flows.labels.class_reading import current_taxonomy
from flows.labels.files import LabelFile, read_labels
from flows.labels.journal import Answer
from flows.labels.resolve import resolve
from flows.labels.samples import data_classes, held_ids
from flows.labels.take import Taken, take
from flows.production.queue_export import label_classes
from flows.production.sessions import session_groups
from flows.project.ingest import NO_LAYOUT, ingest_command
from monitoring.log.production_log import Log, open_log
from monitoring.log.schema import DEFAULTS, late_labels_schema
from monitoring.review import queue as review_queue
from monitoring.review.queue import Queued
from tasks.common.params import Params, load_params
from tasks.common.schemas import MEASURING, SLICE
from tasks.dataset.shards import live_shards, read_columns, shard_groups
from tasks.ingest.batch import IngestReport
from tasks.labels.names import Named
from tasks.sources.records import Columns
from tasks.sources.times import Times

BLOCK = 64  # images in memory at once
NAMED = 9  # rows beside the first that are named for one reason
LOCATED = ["id", "at", "source", "key", "slices"]
FULL_ID = re.compile(r"[0-9a-f]{64}")
OWN_COLUMNS = Columns(picked="picked", sampling_probability="sampling_probability")  # of the manifest made here
QUOTA_FROM = 20  # unsolicited labels that every source may give
EVER = (datetime(1900, 1, 1, tzinfo=UTC), datetime(9999, 1, 1, tzinfo=UTC))  # cameras' clocks may be reset


@dataclass
class Labelled:
    """The outcome of importing one file of labels."""

    rows: int = 0
    left: int = 0  # without a label: not seen yet, or skipped
    kept: int = 0  # new in the log
    repeated: int = 0  # already in the log
    refused: list[str] = field(default_factory=list)  # "labels.csv line 3: why"
    untimed: int = 0  # labels whose time cannot be read: they count as given now
    without_image: int = 0  # only a thumbnail is in the log: counts for accuracy, not for training
    notes: list[str] = field(default_factory=list)  # how the file was understood
    ingested: IngestReport | None = None
    corrected: Taken | None = None  # answers about samples of the data set

    def lines(self) -> list[str]:
        """Describe it for the terminal."""
        found = list(self.notes)
        found.append(f"{self.kept} labels taken, {self.repeated} already known, {self.left} rows without a label")
        if self.corrected and not (self.kept or self.repeated):
            found[-1] = f"production: no label; {self.left} rows without a label"
        found += [f"  refused {line}" for line in _by_reason(self.refused)]
        if self.untimed:
            found.append(
                f"  {self.untimed} times cannot be read (see data.time_format): these labels count as given now"
            )
        if self.without_image:
            found.append(f"  {self.without_image} of them have only a thumbnail in the log: not used for training")
        if self.ingested:
            found.append(self.ingested.sentence())
        if self.corrected:
            found.append(f"data set: {self.corrected.sentence()}")
        return found

    @property
    def useless(self) -> bool:
        """Nothing in the file could be used."""
        done = self.kept or self.repeated or (self.corrected and (self.corrected.added or self.corrected.repeated))
        return bool(self.refused) and not done


def _by_reason(refused: list[str], most: int = 10) -> list[str]:
    """`refused` ("place: reason") with one line for each reason, at most so many."""
    places: dict[str, list[str]] = {}
    for line in refused:
        place, _, reason = line.partition(": ")
        places.setdefault(reason, []).append(place)
    lines = []
    for reason, (first, *others) in list(places.items())[:most]:
        file = first.partition(" line ")[0]
        named = ", ".join([first, *(place.removeprefix(f"{file} ") for place in others[:NAMED])])
        more = len(others[NAMED:])
        lines.append(f"{named}{f' and {more} more' if more else ''}: {reason}")
    if left := sum(map(len, list(places.values())[most:])):
        lines.append(f"... and {left} more")
    return lines


@dataclass(frozen=True)
class _Given:
    """One label of the file; `where` names its place for error messages."""

    where: str
    id: str
    label: str | list[str] | None
    annotator: str
    at: datetime | None
    exclude: bool = False  # instead of a label
    why: str = ""


def take_labels(
    root: Path,
    file: Path,
    *,
    annotator: str | None = None,
    quota: bool = True,
    new_classes: bool = False,
    reviewer: bool = False,
    ingest: bool = True,
    commit: bool = True,
) -> Labelled:
    """Take the labels in `file` into the log and data/; a row that cannot be used is refused with its reason.

    file: see flows.labels.files; rows name samples of the production log or of the data set by id, the start of an id,
    key or path. quota: each source may give at most review.max_source_share of the unsolicited labels (but always
    QUOTA_FROM), so that a flood of feedback from one place does not teach the model. new_classes: accept labels that
    are not classes yet. reviewer: these are a reviewer's words, which override others and have no quota. ingest: also
    take the answers into data/; without it only the log gets labels. An exclusion counts in both: the image is used
    for nothing, not even for the live accuracy. Raises EvergreenError.
    """
    params = load_params(root / "params.yaml")
    log = open_log(root, params)
    classes = None if new_classes else known_classes(root, params)
    result = Labelled()
    times = Times(params.data.time_format, params.data.time_zone)
    read = read_labels(file, params.data.task, classes, annotator or getpass.getuser(), times)
    given = _by_name(root, log, read, result)
    ids = [one.id for one in given]
    located = {row["id"]: row for row in log.find(ids, *EVER, LOCATED).to_pylist()}
    held = held_ids(root / "data", ids) if ingest else set()
    given = [one for one in given if _can_be_used(one, located, held, result)]
    answers = [one for one in given if one.id in located]
    if quota and not reviewer:
        answers = _within_quota(answers, located, log, params.review.max_source_share, result)
    asked = review_queue.asked(log)
    _keep(log, answers, asked, result, "reviewer" if reviewer else "annotator")
    if ingest:
        if new := [one for one in answers if one.id not in held and not one.exclude]:
            _ingest(root, log, new, located, asked, result, commit)
        taken = {id(one) for one in answers}
        told = [one for one in given if one.id in held and (one.id not in located or id(one) in taken)]
        if reviewer and result.ingested:  # an ingest records votes: the reviewer's word is added to these
            told += [one for one in new if one.id in held_ids(root / "data", [other.id for other in new])]
        if told:
            result.corrected = take(root, [_answer(one, reviewer) for one in told], commit=commit, why=file.name)
    return result


def known_classes(root: Path, params: Params) -> list[str] | None:
    """The names that a label may have, also those of the past, which the taxonomy reads; None: there are none yet."""
    classes = label_classes(root, params) or data_classes(root)
    return [*classes, *current_taxonomy(root).meaning] if classes else None


def _answer(one: _Given, reviewer: bool) -> Answer:
    said = {"label": one.label, "exclude": one.exclude, "why": one.why}
    role = "reviewer" if reviewer else "annotator"
    return Answer(id=one.id, annotator=one.annotator, role=role, at=one.at, **said)


def _by_name(root: Path, log: Log, read: LabelFile, result: Labelled) -> list[_Given]:
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
            given.append(_Given(one.where, found, one.label, one.annotator, one.at, one.exclude, one.why))
    return given


def _can_be_used(one: _Given, located: dict[str, dict], held: set[str], result: Labelled) -> bool:
    if one.id not in located and one.id not in held:
        result.refused.append(
            f"{one.where}: {one.id[:70]!r} is not in the production log or the data set, or was erased from it"
        )
        return False
    return True


def _within_quota(
    given: list[_Given], located: dict[str, dict], log: Log, share: float, result: Labelled
) -> list[_Given]:
    """Refuse what a source gives beyond its quota of unsolicited labels; earlier labels count too."""
    asked = {entry.id for entry in review_queue.queued(log)}
    earlier = {name for name in log.labels()["id"].to_pylist() if name not in asked}
    rest = [name for name in earlier if name not in located]
    of = {row["id"]: row["source"] for row in log.find(rest, *EVER, ["id", "source"]).to_pylist()} if rest else {}
    of |= {name: row["source"] for name, row in located.items()}
    have = Counter(of.get(name) for name in earlier)
    total = len(earlier | {one.id for one in given if one.id not in asked})
    limit = max(QUOTA_FROM, int(share * total))
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


def _keep(log: Log, given: list[_Given], asked: Mapping[str, Queued], result: Labelled, role: str) -> None:
    """Add the labels, and exclusions as null, to the log, except those that their annotator gave before."""
    rows = log.labels().to_pylist()
    said = {(row["id"], row["annotator"]): row["label"] for row in rows if row["role"] == role}
    now, new = datetime.now(UTC), {}
    for one in given:
        if (one.id, one.annotator) in said and said[one.id, one.annotator] == one.label:
            result.repeated += 1
            continue
        said[one.id, one.annotator] = one.label
        new[one.id, one.annotator] = {
            "id": one.id,
            "at": one.at or now,
            "annotator": one.annotator,
            "label": one.label,
            **DEFAULTS,
            "role": role,
            **_picked(asked, one.id),
        }
        result.kept += 1
    log.add_labels(pa.Table.from_pylist(list(new.values()), schema=late_labels_schema(log.task)))


def _ingest(
    root: Path,
    log: Log,
    given: list[_Given],
    located: dict[str, dict],
    asked: Mapping[str, Queued],
    result: Labelled,
    commit: bool,
) -> None:
    """Take the labelled images whose bytes are in the log into data/, as one batch of origin production."""
    given = sorted(
        given, key=lambda one: (located[one.id]["at"], one.id)
    )  # in the log's order, which is read hour by hour
    places = [located[one.id] for one in given]
    known = {}
    for shard in live_shards(root / "data"):
        splits = read_columns(shard.path, ["split"])["split"].to_pylist()
        known |= dict(zip(shard_groups(shard.path).to_pylist(), splits, strict=True))
    groups = session_groups(
        [place["source"] for place in places],
        [place["at"] for place in places],
        known,
        [_picked(asked, one.id)["picked"] in MEASURING for one in given],
    )
    group_of = {one.id: group for one, group in zip(given, groups, strict=True)}
    schema = late_labels_schema(log.task)
    manifest = pa.schema(
        [
            ("image", pa.binary()),
            schema.field("label"),
            ("source", pa.string()),
            ("group", pa.string()),
            ("taken_at", pa.timestamp("us", tz="UTC")),
            ("annotator", pa.string()),
            ("labelled_at", pa.timestamp("us", tz="UTC")),
            ("key", pa.string()),
            ("slice", SLICE),
            ("picked", pa.string()),
            ("sampling_probability", pa.float32()),
        ]
    )
    rows = 0
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "labels.parquet"
        with pq.ParquetWriter(file, manifest, compression="none") as writer:
            for first in range(0, len(given), BLOCK):
                part = given[first : first + BLOCK]
                start, end = located[part[0].id]["at"], located[part[-1].id]["at"] + timedelta(microseconds=1)
                found = log.find([one.id for one in part], start, end, ["id", "image"])
                images = dict(zip(found["id"].to_pylist(), found["image"].to_pylist(), strict=True))
                block = [
                    _sample(one, images[one.id], located[one.id], group_of[one.id]) | _picked(asked, one.id)
                    for one in part
                    if images.get(one.id)
                ]
                result.without_image += len(part) - len(block)
                rows += len(block)
                if block:
                    writer.write_table(pa.Table.from_pylist(block, schema=manifest))
        if rows:
            (result.ingested,) = ingest_command(
                root, file, kind="production", commit=commit, new=False, layout=NO_LAYOUT, columns=OWN_COLUMNS
            )


def _sample(one: _Given, image: bytes, at: dict, group: str | None) -> dict:
    return {
        "image": image,
        "label": one.label,
        "source": at["source"],
        "group": group,
        "taken_at": at["at"],
        "annotator": one.annotator,
        "labelled_at": one.at,
        "key": at["key"],
        "slice": at["slices"],
    }


def _picked(asked: Mapping[str, Queued], name: str) -> dict:
    """Why the label was given: the queue asked for it, or somebody sent it in."""
    if (entry := asked.get(name)) is None:
        return {"picked": "feedback", "sampling_probability": None}
    return {"picked": entry.picked, "sampling_probability": entry.sampling_probability}
