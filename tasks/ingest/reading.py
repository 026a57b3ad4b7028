"""The first reading of a source: new images, refusals, splits, added labels.

Every row is hashed; a new image is decoded once and measured. Memory holds its measures and some hundred bytes more,
never its pixels or encoded bytes. This module writes nothing.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa

from tasks.common.files import content_key, sha256_bytes
from tasks.common.schemas import MEASURING
from tasks.common.sections.data import SplitFractions
from tasks.dataset.decode import Undecodable
from tasks.ingest import erasures
from tasks.ingest.coverage import coverage_notes, groups_of_classes
from tasks.ingest.existing import ExistingSamples
from tasks.ingest.found import IngestSettings, Label, NewImage, Reading, Vote, label_names
from tasks.ingest.periods import period_notes, require_times
from tasks.ingest.splits import Lookalikes, NewRow, RecordedSplits, assign_splits
from tasks.ingest.votes import Contradictions, new_annotations
from tasks.inspection.measure import Measured, measure_all
from tasks.inspection.measures import measures_table, thumbnails
from tasks.inspection.near_duplicates import near_pairs
from tasks.sources import fields
from tasks.sources.fields import Unusable
from tasks.sources.offered import Offered

Measure = Callable[[Iterable[bytes]], Iterable[Measured | Undecodable]]  # in order, one for one
MEASURED_AT_ONCE = 1024  # rows per table of measures


def read_source(
    rows: Iterable[Offered],
    existing: ExistingSamples,
    tombstones: Collection[str],
    settings: IngestSettings,
    measure: Measure | None = None,
) -> Reading:
    """Read `rows` once and decide about each of them.

    measure: what decodes and measures the encoded images, in order; None: child processes of this machine.
    """
    reading = Reading(settings)
    reader = _Reader(reading, existing, tombstones)
    tables: list[pa.Table] = []
    results: list[Measured | Undecodable] = []

    def keep() -> None:
        done = sum(map(len, tables))
        tables.append(measures_table([new.image for new in reading.new[done : done + len(results)]], results))
        results.clear()

    for row, result in enumerate((measure or _measure_here(settings))(reader.new_images(rows))):
        if isinstance(result, Undecodable):
            reading.new[row].verdict = Unusable(result.reason, result.detail)
        results.append(result)
        if len(results) == MEASURED_AT_ONCE:
            keep()
    keep()
    reading.measures = pa.concat_tables(tables).combine_chunks()
    votes = reader.contradictions.settle(reading, reader.votes)

    _decide_splits(reading, existing, tombstones)
    for new in reading.new:
        if not new.taken:
            reading.refuse(new.number, new.where, new.verdict)
    reader.resolve_repeats()
    reading.notes += reader.contradictions.notes(reading)
    reading.refused.sort(key=lambda refused: refused.number)
    reading.annotations = new_annotations(reading, votes, existing)
    return reading


def _measure_here(settings: IngestSettings) -> Measure:
    how, workers = settings.images, settings.inspect.workers
    return lambda items: measure_all(items, how.max_pixels, workers, how.bit_depth)


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
        self.contradictions = Contradictions()
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
            if image not in self.existing.moved:
                check_recorded_split(offered, self.existing.value(sample, "split"))
            self.reading.known += 1
            self.reading.tombstoned += self.existing.value(sample, "batch") in self.tombstones
            given = self.existing.value(sample, "label")
        elif first is not None:
            self._repeats.append((number, row.where, self.reading.new[first], offered))
            given = self.reading.new[first].label
            if row.annotator is None and kind in ("import", "hard"):
                self.contradictions.note(first, self.reading.new[first], label)
        else:
            self._row_of[image] = len(self.reading.new)
            group = self._group(row, allowed)
            stored = [label, row.source, str(row.taken_at), row.slices, row.path, *([group] if group else [])]
            stored += [["key", row.key]] if row.key else []
            if row.picked or self.settings.picked:
                stored.append(["picked", self.settings.picked_of(row), row.sampling_probability])
            content = content_key(stored)[:16]
            shared = (self._interned.setdefault(repr(value), value) for value in (label, group, row.source, allowed))
            picked, untimed, named = self.settings.picked_of(row), row.bad_time is not None, row.annotator is not None
            about = (content, untimed, picked, named, row.taken_at)
            self.reading.new.append(NewImage(number, row.where, image, *shared, *about))
            given = label
        silent = annotator is None and label == given and (sample is None or kind != "review")
        if label is not None and not silent:
            at = row.labelled_at or (self.started if kind == "review" else None)
            self.votes.append(Vote(number, image, label, annotator, at))
        return sample is None and first is None

    def _splits(self, row: Offered) -> tuple[str, ...]:
        """The splits that the image may go to. What is not a fair sample measures nothing: it goes to train."""
        if self.settings.kind == "synthetic":
            if row.split not in ((), ("train",)):
                asked = " or ".join(row.split)
                raise Unusable("bad_split", f"offered for {asked}, but synthetic: synthetic images are only trained on")
            return ("train",)
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
    by_time = settings.data.split.by == "time"
    if by_time:
        require_times(offered, recorded)
    splits = assign_splits(
        [
            NewRow(new.image, new.allowed, new.group, new.source, label_names(new.label), new.taken_at)
            for new in offered
        ],
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
    reading.notes = [
        *_unfair(offered, settings.kind),
        *_deep(reading),
        *_coverage(offered, recorded, existing, settings.data.split),
    ]
    if by_time:
        reading.notes += period_notes(offered)


def _unfair(offered: list[NewImage], kind: str) -> list[str]:
    """How many images measure nothing because of how they were picked."""
    if kind == "synthetic":
        return []
    unfair = Counter(new.picked for new in offered if new.taken and new.picked not in MEASURING)
    return [
        f"note: {count} images are not a fair sample (picked: {picked}): they are trained on and measure nothing. "
        "If they are what the model will meet, say --picked representative"
        for picked, count in unfair.items()
    ]


def _deep(reading: Reading) -> list[str]:
    """How many images have 16 bits of which nobody said how many are used."""
    modes = Counter(mode for mode in reading.measures["mode"].to_pylist() if mode and mode.startswith("I"))
    if not modes or reading.settings.images.bit_depth is not None:
        return []
    return [
        f"note: {sum(modes.values())} images have 16 bits a pixel. Where their files do not say how many are used, "
        "each is scaled by what its largest value needs: set images.bit_depth (12 of a 12-bit camera) to scale all so"
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
