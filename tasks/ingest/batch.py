"""Take the new images and labels of a source into the data set as one batch: all of them or nothing.

The source is read twice. The first reading (tasks.ingest.reading) hashes every image and decodes the new ones: it
decides what is taken and into which split. The second reading (tasks.ingest.writing) copies the bytes of the taken
images into shards. So memory holds under a kilobyte per image, and the batch's name, which every row carries, covers
the whole content.

The same input gives the same files, byte for byte. Nothing in data/ depends on the order of a file system, on random
names or on the clock, except the time of a review that names none. The next ingest removes what a killed one left
(tasks.ingest.lock).
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from tasks.common.errors import DataError
from tasks.common.files import write_json
from tasks.common.params import DataParams, ImagesParams, InspectParams
from tasks.common.progress import track
from tasks.common.schemas import PICKED, SPLITS
from tasks.dataset import shards
from tasks.ingest.existing import ExistingSamples
from tasks.ingest.found import IngestSettings, Reading, Refused
from tasks.ingest.lock import data_files, data_lock
from tasks.ingest.pictures import refused_pictures
from tasks.ingest.reading import Measure, read_source
from tasks.ingest.writing import write_batch, write_quarantine
from tasks.sources.records import Columns
from tasks.sources.source import open_source
from tasks.sources.times import Times
from tasks.sources.understood import understood

REPORTED = 500  # refused rows in a report as JSON
KINDS = ("import", "production", "review", "hard", "synthetic")


@dataclass(frozen=True)
class IngestReport:
    """What an ingest did. offered = taken + known + quarantined."""

    batch: str | None  # None: nothing new
    offered: int
    taken: int
    known: int  # rows whose image is in the data set already, or in an earlier row of the source
    tombstoned: int  # of these, in tombstoned batches: they stay out of training
    annotated: int  # labels added to images
    unlabelled: int  # of the taken
    untimed: int  # of the taken: without a time, because theirs cannot be read
    quarantined: tuple[Refused, ...]
    classes: dict[str, int]  # class -> images taken
    splits: dict[str, int]  # split -> images taken
    notes: tuple[str, ...] = ()  # what the groups did not allow
    dry: bool = False  # nothing was written

    def as_json(self) -> dict:
        """What is reported, as JSON values."""
        refused = [asdict(one) for one in self.quarantined[:REPORTED]]
        return asdict(self) | {"quarantined": refused, "refused": len(self.quarantined), "sentence": self.sentence()}

    def sentence(self) -> str:
        """One sentence for the terminal."""
        parts = ["took no new image"]
        if self.taken:
            where = ", ".join(f"{count} {split}" for split, count in self.splits.items())
            classes = "1 class" if len(self.classes) == 1 else f"{len(self.classes)} classes"
            without = f", {self.unlabelled} of them without label" if self.unlabelled else ""
            if self.untimed:
                without += f", {self.untimed} without time (it cannot be read)"
            parts = [f"took {self.taken} new images of {classes} ({where}){without}"]
        if self.annotated:
            parts.append(f"added {self.annotated} labels")
        if self.known:
            stopped = f" ({self.tombstoned} of them in tombstoned batches)" if self.tombstoned else ""
            parts.append(f"skipped {self.known} known{stopped}")
        if self.quarantined:
            reasons = Counter(refused.reason for refused in self.quarantined)
            listed = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
            parts.append(f"quarantined {len(self.quarantined)} ({listed})")
        said = "; ".join([*parts, f"batch {self.batch}" if self.batch else "no batch was written"])
        return f"dry run, nothing is written: {said}" if self.dry else said


def ingest(
    root: Path,
    source: Path,
    *,
    data: DataParams,
    images: ImagesParams,
    inspect: InspectParams,
    kind: str = "import",
    columns: Columns | None = None,
    annotator: str | None = None,
    picked: str | None = None,
    layout: str | None = None,
    dry: bool = False,
    say: Callable[[str], None] | None = None,
    measure: Measure | None = None,
) -> IngestReport:
    """Take what is new in `source` (see tasks.sources.source) into root/data as one batch.

    The sha256 of an image's bytes says whether it is new. Images of tombstoned batches count as known: otherwise the
    next schedule would bring back what was found bad. A label that an image does not have yet, or not from this
    annotator, becomes an annotation. `kind` "hard" puts every row into the hard set; "review" makes labels override
    earlier ones; "synthetic" marks images that no camera took: they only train. `annotator` is used for rows that
    name none, and `picked` (one of schemas.PICKED) for rows that do not say why they were picked. `layout` says
    what paths mean (tasks.sources.layouts); rows whose path does not fit are refused. `dry` says what would be taken
    and writes nothing. `say` is told how the source is read, before it is. `measure`: see read_source. Waits while
    another ingest into the same data set runs.
    Raises DataError when the source cannot be read or has no rows.
    """
    if kind not in KINDS:
        raise DataError(f"kind {kind!r}: expected one of {', '.join(KINDS)}")
    if picked is not None and picked not in PICKED:
        raise DataError(f"picked {picked!r}: expected one of {', '.join(PICKED)}")
    opened = open_source(source, columns, layout, Times(data.time_format, data.time_zone))
    folder = root / "data"
    with data_lock(root) as journal:
        if shards.batches(folder):
            shards.create_dataset(folder, data.task)  # raises when the data set has another task than params.yaml
        tombstones = shards.read_tombstones(root)
        rows = track(opened.rows(), f"reading {source.name}")
        settings = IngestSettings(kind, annotator, data, images, inspect, picked)
        existing = ExistingSamples(root)
        for line in understood(opened, data.task, existing.class_names()) if say is not None else ():
            say(line)
        reading = read_source(rows, existing, tombstones, settings, measure)
        if reading.offered == 0:
            raise DataError(f"{source} has no rows: nothing to ingest")
        batch = reading.batch() if reading.taken_rows() or reading.annotations else None
        if not dry:
            pictures = refused_pictures(opened, reading.refused, images.max_pixels)
            write_quarantine(root, batch, reading.refused, pictures)
        if batch is not None and not dry:
            write_json(journal, sorted(data_files(folder)))
            write_batch(root, opened, reading, batch)
            journal.unlink()
    return _report(reading, batch, dry)


def _report(reading: Reading, batch: str | None, dry: bool) -> IngestReport:
    taken = [new for new in reading.new if new.taken]
    labels = (new.label if isinstance(new.label, list) else [new.label] for new in taken if new.label is not None)
    splits = Counter(new.verdict for new in taken)
    return IngestReport(
        batch=batch,
        offered=reading.offered,
        taken=len(taken),
        known=reading.known,
        tombstoned=reading.tombstoned,
        annotated=len(reading.annotations),
        unlabelled=sum(new.label is None for new in taken),
        untimed=sum(new.bad_time for new in taken),
        quarantined=tuple(reading.refused),
        classes=dict(sorted(Counter(name for names in labels for name in names).items())),
        splits={name: splits[name] for name in SPLITS if splits[name]},
        notes=tuple(reading.notes),
        dry=dry,
    )
