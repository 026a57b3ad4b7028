"""The first reading of a source: new images, refusals, splits, added labels.

Every row is hashed; a new image is decoded once and measured. Memory holds its measures and some hundred bytes more,
never its pixels or encoded bytes. This module writes nothing.
"""

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa

from tasks.common.files import content_key, sha256_bytes
from tasks.common.params import DataParams, ImagesParams, InspectParams, SplitFractions
from tasks.common.schemas import MEASURING
from tasks.dataset.decode import Undecodable
from tasks.ingest import erasures
from tasks.ingest.coverage import coverage_notes, groups_of_classes
from tasks.ingest.existing import ExistingSamples
from tasks.ingest.splits import Lookalikes, NewRow, RecordedSplits, assign_splits
from tasks.inspection.measure import Measured, measure_all
from tasks.inspection.measures import measures_table, thumbnails
from tasks.inspection.near_duplicates import near_pairs
from tasks.sources import fields
from tasks.sources.fields import Unusable
from tasks.sources.offered import Offered

MEASURED_AT_ONCE = 1024  # rows per table of measures
Label = str | list[str] | None


@dataclass(frozen=True)
class IngestSettings:
    """How a source is ingested: what the caller asks for, and the sections of params.yaml that apply."""

    kind: str  # one of tasks.ingest.batch.KINDS
    annotator: str | None  # for rows that name none
    data: DataParams
    images: ImagesParams
    inspect: InspectParams
    picked: str | None = None  # one of PICKED, for rows that do not say it; None: what the kind implies

    def picked_of(self, row: Offered) -> str:
        """How the image of `row` was picked; one of PICKED."""
        return row.picked or self.picked or ("representative" if self.kind in ("import", "hard") else "unknown")


@dataclass(frozen=True, slots=True)
class Refused:
    """A row that was not taken. `reason` is one of schemas.QUARANTINE_REASONS."""

    number: int  # row in the source, from 0
    where: str
    reason: str
    detail: str

    def __str__(self) -> str:
        return f"{self.where}: {self.reason} ({self.detail})"


@dataclass(slots=True)
class NewImage:
    """An image seen for the first time; `verdict` becomes its split, or why it is refused."""

    number: int  # row in the source
    where: str
    image: str  # sha256 of its bytes
    label: Label
    group: str | None  # as it is stored, see _Reader._group
    source: str | None
    allowed: tuple[str, ...]
    content: str  # hash of everything else that is stored for it
    bad_time: bool = False  # the source gives a time that cannot be read
    picked: str = "representative"
    verdict: str | Unusable | None = None

    @property
    def taken(self) -> bool:
        return isinstance(self.verdict, str)


@dataclass(frozen=True, slots=True)
class Vote:
    """A label that one annotator gives to an image. It becomes an annotation unless it adds nothing new."""

    number: int
    image: str
    label: str | list[str]
    annotator: str | None
    at: datetime | None


@dataclass
class Reading:
    """What the first reading of a source found; row i of `measures` belongs to `new[i]`."""

    settings: IngestSettings
    offered: int = 0
    known: int = 0  # rows whose image is in the data set already, or in an earlier row of the source
    tombstoned: int = 0  # of these, in a tombstoned batch
    new: list[NewImage] = field(default_factory=list)
    measures: pa.Table | None = None  # see tasks.inspection.measures.measures_table
    refused: list[Refused] = field(default_factory=list)
    annotations: list[dict] = field(default_factory=list)  # schemas.annotation_schema without batch
    notes: list[str] = field(default_factory=list)  # what the groups did not allow

    def taken_rows(self) -> list[int]:
        """Rows of `new` that are taken."""
        return [row for row, new in enumerate(self.new) if new.taken]

    def batch(self) -> str:
        """Name of the batch: the same content has the same name."""
        digest = hashlib.sha256(self.settings.kind.encode())
        for new in self.new:
            if new.taken:
                digest.update(f"{new.image} {new.verdict} {new.content}\n".encode())
        for row in self.annotations:
            digest.update(content_key([row["id"], row["label"], row["annotator"], str(row["at"])]).encode())
        return f"b-{digest.hexdigest()[:12]}"

    def refuse(self, number: int, where: str, why: Unusable | Undecodable) -> None:
        self.refused.append(Refused(number, where, why.reason, why.detail))


def read_source(
    rows: Iterable[Offered], existing: ExistingSamples, tombstones: Collection[str], settings: IngestSettings
) -> Reading:
    """Read `rows` once and decide about each of them."""
    reading = Reading(settings)
    reader = _Reader(reading, existing, tombstones)
    tables: list[pa.Table] = []
    results: list[Measured | Undecodable] = []

    def keep() -> None:
        done = sum(map(len, tables))
        tables.append(measures_table([new.image for new in reading.new[done : done + len(results)]], results))
        results.clear()

    measured = measure_all(reader.new_images(rows), settings.images.max_pixels, settings.inspect.workers)
    for row, result in enumerate(measured):
        if isinstance(result, Undecodable):
            reading.new[row].verdict = Unusable(result.reason, result.detail)
        results.append(result)
        if len(results) == MEASURED_AT_ONCE:
            keep()
    keep()
    reading.measures = pa.concat_tables(tables).combine_chunks()

    _decide_splits(reading, existing, tombstones)
    for new in reading.new:
        if not new.taken:
            reading.refuse(new.number, new.where, new.verdict)
    reader.resolve_repeats()
    reading.refused.sort(key=lambda refused: refused.number)
    reading.annotations = _new_annotations(reading, reader.votes, existing)
    return reading


class _Reader:
    """Separates new images from known ones while the source is read, and fills `reading`."""

    def __init__(self, reading: Reading, existing: ExistingSamples, tombstones: Collection[str]):
        self.reading, self.existing, self.tombstones = reading, existing, tombstones
        self.settings = reading.settings
        self.votes: list[Vote] = []
        self.started = datetime.now(UTC)  # stands in for the time of reviews that name none: the latest review counts
        self._ledger = erasures.read_ledger(existing.root)
        self._old_sources = existing.old_sources()
        listed = self.settings.data.classes  # names of the past are read through the taxonomy
        self._known_names = None if listed is None else {*listed, *existing.taxonomy.meaning}
        self._row_of: dict[str, int] = {}  # id -> row of reading.new
        self._repeats: list[tuple[int, str, NewImage, tuple[str, ...]]] = []  # (number, where, first, allowed)
        self._interned: dict = {}  # labels and groups repeat a lot: one object each; by repr, as None is not "None"

    def new_images(self, rows: Iterable[Offered]) -> Iterator[bytes]:
        """The encoded bytes of every new image; row i of reading.new is the i-th."""
        data = self.settings.data
        for number, row in enumerate(rows):
            self.reading.offered += 1
            try:
                label = fields.label(row.label, data.task, self._known_names)
                encoded = row.read()
                if self._is_new(number, row, label, sha256_bytes(encoded)):
                    yield encoded
            except Unusable as error:
                self.reading.refuse(number, row.where, error)

    def _is_new(self, number: int, row: Offered, label: Label, image: str) -> bool:
        if erased := erasures.why_erased(self._ledger, image):
            raise Unusable("forgotten", erased)
        kind = self.settings.kind
        offered = ("hard",) if kind == "hard" else row.split
        allowed = self._splits(row)
        annotator = row.annotator or self.settings.annotator
        sample, first = self.existing.find(image), self._row_of.get(image)
        if sample is not None:
            check_recorded_split(offered, self.existing.value(sample, "split"))
            self.reading.known += 1
            self.reading.tombstoned += self.existing.value(sample, "batch") in self.tombstones
            given = self.existing.value(sample, "label")
        elif first is not None:
            self._repeats.append((number, row.where, self.reading.new[first], offered))
            given = self.reading.new[first].label
        else:
            self._row_of[image] = len(self.reading.new)
            group = self._group(row, allowed)
            stored = [label, row.source, str(row.taken_at), row.slices, row.path, *([group] if group else [])]
            stored += [["key", row.key]] if row.key else []
            if row.picked or self.settings.picked:
                stored.append(["picked", self.settings.picked_of(row), row.sampling_probability])
            content = content_key(stored)[:16]
            shared = (self._interned.setdefault(repr(value), value) for value in (label, group, row.source, allowed))
            picked, untimed = self.settings.picked_of(row), row.bad_time is not None
            self.reading.new.append(NewImage(number, row.where, image, *shared, content, untimed, picked))
            given = label
        silent = annotator is None and label == given and (sample is None or kind != "review")
        if label is not None and not silent:
            at = row.labelled_at or (self.started if kind == "review" else None)
            self.votes.append(Vote(number, image, label, annotator, at))
        return sample is None and first is None

    def _splits(self, row: Offered) -> tuple[str, ...]:
        """The splits that the image may go to. What is not a fair sample measures nothing: it goes to train."""
        if self.settings.kind == "hard" or row.split == ("hard",):
            return ("hard",)
        picked = self.settings.picked_of(row)
        if picked in MEASURING:
            return row.split
        if len(row.split) == 1 and row.split != ("train",):
            raise Unusable(
                "bad_split", f"offered for {row.split[0]}, but picked as {picked}: only a fair sample measures"
            )
        return ("train",)

    def _group(self, row: Offered, allowed: tuple[str, ...]) -> str | None:
        """The group of a new row. Sources of version-1 shards stay whole: they are the group of rows without one.

        Not if the row names its split, nor for labels from production, which are divided within their source.
        """
        bound = row.source in self._old_sources and len(allowed) != 1 and self.settings.kind != "production"
        return row.group or (row.source if bound else None)

    def resolve_repeats(self) -> None:
        """Count repeated images as known, or refuse them again where their first row was refused."""
        for number, where, first, allowed in self._repeats:
            try:
                if not first.taken:
                    raise first.verdict
                check_recorded_split(allowed, first.verdict)
                self.reading.known += 1
            except Unusable as error:
                self.reading.refuse(number, where, error)


def check_recorded_split(allowed: tuple[str, ...], recorded: str) -> None:
    """Raise Unusable if a known image is offered for another split than its recorded one."""
    if recorded == "hard" and allowed != ("hard",):
        raise Unusable("in_hard_set", "the image is in the hard set")
    if len(allowed) == 1 and allowed[0] != recorded:
        raise Unusable("bridges_splits", f"offered for {allowed[0]}, but the image is in {recorded} already")


def _decide_splits(reading: Reading, existing: ExistingSamples, tombstones: Collection[str]) -> None:
    offered = [new for new in reading.new if new.verdict is None]
    if not offered:
        return
    settings = reading.settings
    rows = np.flatnonzero([new.verdict is None for new in reading.new])
    phash = reading.measures.column("phash").take(rows).to_numpy()
    thumbs = thumbnails(reading.measures.column("thumbnail").take(rows))
    content = np.column_stack([np.ascontiguousarray(phash).view(np.uint8).reshape(-1, 8), thumbs])
    _, first, looks = np.unique(content.view(f"V{content.shape[1]}").ravel(), return_index=True, return_inverse=True)
    phash, thumbs = phash[first], thumbs[first]
    bits, difference = settings.inspect.near_duplicate_bits, settings.inspect.near_duplicate_difference
    recorded = existing.recorded_splits(tombstones)
    splits = assign_splits(
        [NewRow(new.image, new.allowed, new.group, new.source, label_names(new.label)) for new in offered],
        recorded,
        Lookalikes(
            looks,
            near_pairs(phash, thumbs, bits, difference),
            existing.neighbour_splits(phash, thumbs, settings.images, settings.inspect),
        ),
        seed=settings.data.seed,
        fractions=settings.data.split,
    )
    for new, split in zip(offered, splits, strict=True):
        new.verdict = split
    reading.notes = [*_unfair(offered), *_coverage(offered, recorded, existing, settings.data.split)]


def _unfair(offered: list[NewImage]) -> list[str]:
    """How many images measure nothing because of how they were picked."""
    unfair = Counter(new.picked for new in offered if new.taken and new.picked not in MEASURING)
    return [
        f"note: {count} images are not a fair sample (picked: {picked}): they are trained on and measure nothing. "
        "If they are what the model will meet, say --picked representative"
        for picked, count in unfair.items()
    ]


def _coverage(
    offered: list[NewImage], recorded: RecordedSplits, existing: ExistingSamples, fractions: SplitFractions
) -> list[str]:
    """What groups did not allow for the classes of the images whose split was chosen here."""
    chosen = [new for new in offered if new.taken and len(new.allowed) != 1]
    rows, classes = Counter(recorded.rows), Counter(recorded.classes)
    for new in offered:
        if new.taken:
            rows[new.verdict] += 1
            classes.update((new.verdict, name) for name in label_names(new.label))
    if all(new.group is None for new in chosen):  # only tiny classes can be missing, and `init` names those
        return []
    names = {name for new in chosen for name in label_names(new.label)}
    pairs = [(new.group or new.image, label_names(new.label)) for new in offered if new.taken]
    groups = groups_of_classes([*pairs, *existing.groups_of(names)])
    return coverage_notes(rows, {key: count for key, count in classes.items() if key[1] in names}, groups, fractions)


def label_names(label: Label) -> tuple[str, ...]:
    """The class names of a label."""
    return () if label is None else (label,) if isinstance(label, str) else tuple(label)


def _new_annotations(reading: Reading, votes: list[Vote], existing: ExistingSamples) -> list[dict]:
    """Votes that add something new.

    Of a reviewer: a label that differs from this reviewer's last one. Else: one that this annotator has not given to
    the image yet, retracted or not.
    """
    refused = {refused.number for refused in reading.refused}
    votes = [vote for vote in votes if vote.number not in refused]
    review, production = reading.settings.kind == "review", reading.settings.kind == "production"
    earlier: dict[tuple[str, str | None], list] = {}
    for row in existing.annotations({vote.image for vote in votes}):
        if (row["role"] == "reviewer") == review and not row["retracts"]:
            earlier.setdefault((row["id"], row["annotator"]), []).append(row["label"])
    added = []
    for vote in votes:
        said = earlier.setdefault((vote.image, vote.annotator), [])
        if vote.label in (said[-1:] if review else said):
            continue
        said.append(vote.label)
        added.append(
            {
                "id": vote.image,
                "label": vote.label,
                "exclude": False,
                "annotator": vote.annotator,
                "role": "reviewer" if review else "annotator" if production else "import",
                "at": vote.at,
                "why": "",
                "model_version": None,
                "retracts": None,
            }
        )
    return added
