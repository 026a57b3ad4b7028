"""The first reading of a source: what is new, what is refused, which split each image goes to, which labels add.

Every row is hashed; an image that is new is decoded once and measured. Kept of it are its measures and some
hundred bytes more, never its pixels or encoded bytes.
"""

import hashlib
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa

from tasks.common.files import content_key, sha256_bytes
from tasks.common.params import DataParams, ImagesParams, InspectParams
from tasks.dataset.decode import Undecodable
from tasks.ingest import erasures
from tasks.ingest.existing import Known
from tasks.ingest.splits import assign
from tasks.inspection.measure import Measured, measure_all
from tasks.inspection.measures import measures_table, thumbnails
from tasks.inspection.near_duplicates import near_pairs
from tasks.sources import fields
from tasks.sources.fields import Unusable
from tasks.sources.source import Offered

MEASURED_AT_ONCE = 1024  # rows per table of measures
Label = str | list[str] | None


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
class New:
    """An image seen for the first time; `verdict` becomes its split, or why it is refused."""

    number: int  # row in the source
    where: str
    image: str  # sha256 of its bytes
    label: Label
    source: str | None
    allowed: tuple[str, ...]
    content: str  # hash of what else is stored of it
    verdict: str | Unusable | None = None

    @property
    def taken(self) -> bool:
        return isinstance(self.verdict, str)


@dataclass(frozen=True, slots=True)
class Vote:
    """A label somebody gives to an image: an annotation, unless it says nothing new."""

    number: int
    image: str
    label: str | list[str]
    annotator: str | None
    at: datetime | None


@dataclass
class Intake:
    """What reading a source found; `new` and the rows of `measures` are the same images."""

    kind: str
    offered: int = 0
    known: int = 0  # rows whose image the data set has, or an earlier row brought
    tombstoned: int = 0  # of these, in a tombstoned batch
    new: list[New] = field(default_factory=list)
    measures: pa.Table | None = None  # see tasks.inspection.measures.measures_table
    refused: list[Refused] = field(default_factory=list)
    annotations: list[dict] = field(default_factory=list)  # schemas.ANNOTATIONS and label

    def batch(self) -> str:
        """Name of the batch: the same content has the same name."""
        digest = hashlib.sha256(self.kind.encode())
        for new in self.new:
            if new.taken:
                digest.update(f"{new.image} {new.verdict} {new.content}\n".encode())
        for row in self.annotations:
            digest.update(content_key([row["id"], row["label"], row["annotator"], str(row["at"])]).encode())
        return f"b-{digest.hexdigest()[:12]}"

    def refuse(self, number: int, where: str, why: Unusable | Undecodable) -> None:
        self.refused.append(Refused(number, where, why.reason, why.detail))


def take_in(
    rows: Iterable[Offered],
    known: Known,
    tombstones: Collection[str],
    *,
    kind: str,
    annotator: str | None,
    data: DataParams,
    images: ImagesParams,
    inspect: InspectParams,
) -> Intake:
    """Read `rows` once and decide about each. Writes nothing."""
    intake = Intake(kind)
    reading = _Reading(intake, known, tombstones, annotator, data)
    tables: list[pa.Table] = []
    results: list[Measured | Undecodable] = []

    def keep() -> None:
        done = sum(map(len, tables))
        tables.append(measures_table([new.image for new in intake.new[done : done + len(results)]], results))
        results.clear()

    for row, result in enumerate(measure_all(reading.fresh(rows), images.max_pixels, inspect.workers)):
        if isinstance(result, Undecodable):
            intake.new[row].verdict = Unusable(result.reason, result.detail)
        results.append(result)
        if len(results) == MEASURED_AT_ONCE:
            keep()
    keep()
    intake.measures = pa.concat_tables(tables).combine_chunks()

    _decide_splits(intake, known, data, images, inspect)
    for new in intake.new:
        if not new.taken:
            intake.refuse(new.number, new.where, new.verdict)
    reading.settle_repeats()
    intake.refused.sort(key=lambda refused: refused.number)
    intake.annotations = _annotations(intake, reading.votes, known)
    return intake


class _Reading:
    """Tells new rows from known ones while the source goes by."""

    def __init__(
        self, intake: Intake, known: Known, tombstones: Collection[str], annotator: str | None, data: DataParams
    ):
        self.intake, self.known, self.tombstones = intake, known, tombstones
        self.annotator, self.data = annotator, data
        self.votes: list[Vote] = []
        self.started = datetime.now(UTC)  # of reviews that name no time: the latest counts
        self._forgotten = erasures.read(known.root)
        self._row_of: dict[str, int] = {}  # id -> row of intake.new
        self._again: list[tuple[int, str, New, tuple[str, ...]]] = []  # offered again: (number, where, first, allowed)
        self._same: dict = {}  # labels and sources repeat a lot: one object each

    def fresh(self, rows: Iterable[Offered]) -> Iterator[bytes]:
        """The encoded bytes of every image that is new; row i of intake.new is the i-th."""
        for number, row in enumerate(rows):
            self.intake.offered += 1
            try:
                label = fields.label(row.label, self.data.task, self.data.classes)
                encoded = row.read()
                if self._is_new(number, row, label, sha256_bytes(encoded)):
                    yield encoded
            except Unusable as error:
                self.intake.refuse(number, row.where, error)

    def _is_new(self, number: int, row: Offered, label: Label, image: str) -> bool:
        if erased := erasures.refusal(self._forgotten, image):
            raise Unusable("forgotten", erased)
        allowed = ("hard",) if self.intake.kind == "hard" else row.split
        annotator = row.annotator or self.annotator
        sample, first = self.known.find(image), self._row_of.get(image)
        if sample is not None:
            check_known(allowed, self.known.value(sample, "split"))
            self.intake.known += 1
            self.intake.tombstoned += self.known.value(sample, "batch") in self.tombstones
            given = self.known.value(sample, "label")
        elif first is not None:
            self._again.append((number, row.where, self.intake.new[first], allowed))
            given = self.intake.new[first].label
        else:
            self._row_of[image] = len(self.intake.new)
            content = content_key([label, row.source, str(row.taken_at), row.slices, row.path])[:16]
            shared = (self._same.setdefault(str(value), value) for value in (label, row.source, allowed))
            self.intake.new.append(New(number, row.where, image, *shared, content))
            given = label
        silent = annotator is None and label == given and (sample is None or self.intake.kind != "review")
        if label is not None and not silent:
            at = row.labelled_at or (self.started if self.intake.kind == "review" else None)
            self.votes.append(Vote(number, image, label, annotator, at))
        return sample is None and first is None

    def settle_repeats(self) -> None:
        """An image offered twice is known the second time, and refused again if it was refused."""
        for number, where, first, allowed in self._again:
            try:
                if not first.taken:
                    raise first.verdict
                check_known(allowed, first.verdict)
                self.intake.known += 1
            except Unusable as error:
                self.intake.refuse(number, where, error)


def check_known(allowed: tuple[str, ...], recorded: str) -> None:
    """A known image keeps its split. Raises Unusable if it is offered for another one."""
    if recorded == "hard" and allowed != ("hard",):
        raise Unusable("in_hard_set", "the image is in the hard set")
    if len(allowed) == 1 and allowed[0] != recorded:
        raise Unusable("bridges_splits", f"offered for {allowed[0]}, but the image is in {recorded} already")


def _decide_splits(
    intake: Intake, known: Known, data: DataParams, images: ImagesParams, inspect: InspectParams
) -> None:
    offered = [new for new in intake.new if new.verdict is None]
    if not offered:
        return
    rows = np.flatnonzero([new.verdict is None for new in intake.new])
    phash = intake.measures.column("phash").take(rows).to_numpy()
    thumbs = thumbnails(intake.measures.column("thumbnail").take(rows))
    looks = np.column_stack([np.ascontiguousarray(phash).view(np.uint8).reshape(-1, 8), thumbs])
    _, first, groups = np.unique(looks.view(f"V{looks.shape[1]}").ravel(), return_index=True, return_inverse=True)
    phash, thumbs = phash[first], thumbs[first]
    splits = assign(
        [new.image for new in offered],
        [new.allowed for new in offered],
        [new.source for new in offered],
        known.source_splits(),
        groups,
        near_pairs(phash, thumbs, inspect.near_duplicate_bits, inspect.near_duplicate_difference),
        known.neighbours(phash, thumbs, images, inspect),
        seed=data.seed,
        fractions=data.split,
    )
    for new, split in zip(offered, splits, strict=True):
        new.verdict = split


def _annotations(intake: Intake, votes: list[Vote], known: Known) -> list[dict]:
    """Votes that say something new: as an import a label this annotator has not given to the image yet, as a
    review one that differs from the annotator's last."""
    refused = {refused.number for refused in intake.refused}
    votes = [vote for vote in votes if vote.number not in refused]
    why = "review" if intake.kind == "review" else "import"
    earlier: dict[tuple[str, str | None], list] = {}
    for row in known.annotations({vote.image for vote in votes}):
        if row["why"] == why:
            earlier.setdefault((row["id"], row["annotator"]), []).append(row["label"])
    added = []
    for vote in votes:
        said = earlier.setdefault((vote.image, vote.annotator), [])
        if vote.label in (said[-1:] if why == "review" else said):
            continue
        said.append(vote.label)
        added.append(
            {
                "id": vote.image,
                "annotator": vote.annotator,
                "at": vote.at,
                "why": why,
                "model_version": None,
                "label": vote.label,
            }
        )
    return added
