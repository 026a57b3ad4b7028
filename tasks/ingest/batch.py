"""Take images and labels into the data set: all of a source or nothing, each image once, for ever.

The source is read twice. First every image is hashed, and decoded if it is new (tasks.ingest.reading): that decides
what is taken and into which split. Then the bytes of what is taken are copied into shards. So memory holds
under a kilobyte an image, and the batch's name, which every row carries, covers the whole content.

Shards and annotations are written first and the batch manifest last; nothing sees them before. What a killed
ingest left is removed by the next one. The same input gives the same files, byte for byte: no order of a file
system, no random name and no clock goes into data/, but for the time of a review that names none.
"""

import fcntl
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.common.errors import DataError
from tasks.common.failpoints import failpoint
from tasks.common.files import atomic_path, content_key, read_json, sha256_bytes, wait_for_lock, write_json
from tasks.common.params import DataParams, ImagesParams, InspectParams
from tasks.common.paths import state_dir
from tasks.common.progress import track
from tasks.common.schemas import ANNOTATIONS, SPLITS, label_type, sample_schema
from tasks.dataset import shards
from tasks.ingest.existing import Known
from tasks.ingest.image_column import ImageColumn
from tasks.ingest.reading import Intake, New, Refused, take_in
from tasks.inspection.measures import store_measures
from tasks.sources import fields
from tasks.sources.records import Columns
from tasks.sources.source import Offered, Source, open_source

KINDS = ("import", "production", "review", "hard")
WAIT_SECONDS = 6 * 3600.0  # for another ingest to end
SHARD_ROWS = 20_000  # shards of tiny images would have features and pixels of gigabytes


@dataclass(frozen=True)
class IngestReport:
    """What an ingest did. offered = taken + known + quarantined."""

    batch: str | None  # None: nothing new
    offered: int
    taken: int
    known: int  # rows whose image the data set has, or an earlier row brought
    tombstoned: int  # of these, in tombstoned batches: they stay out of training
    annotated: int  # labels added to images
    unlabelled: int  # of the taken
    quarantined: tuple[Refused, ...]
    classes: dict[str, int]  # class -> images taken
    splits: dict[str, int]  # split -> images taken

    def sentence(self) -> str:
        """One sentence for the terminal."""
        parts = ["took no new image"]
        if self.taken:
            where = ", ".join(f"{count} {split}" for split, count in self.splits.items())
            classes = "1 class" if len(self.classes) == 1 else f"{len(self.classes)} classes"
            without = f", {self.unlabelled} of them without label" if self.unlabelled else ""
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
        return "; ".join([*parts, f"batch {self.batch}" if self.batch else "no batch was written"])


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
) -> IngestReport:
    """Take what is new in `source` (see tasks.sources.source) into root/data as one batch.

    An image is known by the sha256 of its bytes, also when its batch is tombstoned: the next schedule must not
    bring back what was found bad. A label that an image does not have yet, or not from this annotator, becomes
    an annotation. `kind` "hard" puts every row into the hard set, "review" makes labels override earlier ones.
    `annotator` stands in for rows that name none. Waits while another ingest into the same data set runs.
    Raises DataError when the source cannot be read or has no rows.
    """
    if kind not in KINDS:
        raise DataError(f"kind {kind!r}: expected one of {', '.join(KINDS)}")
    opened = open_source(source, columns)
    folder = root / "data"
    with data_lock(root) as journal:
        if shards.batches(folder):
            shards.create(folder, data.task)  # raises when params.yaml says another task than the data set
        tombstones = shards.read_tombstones(root)
        rows = track(opened.rows(), f"reading {source.name}")
        settings = {"kind": kind, "annotator": annotator, "data": data, "images": images, "inspect": inspect}
        intake = take_in(rows, Known(root), tombstones, **settings)
        if intake.offered == 0:
            raise DataError(f"{source} has no rows: nothing to ingest")
        taken = [row for row, new in enumerate(intake.new) if new.taken]
        batch = intake.batch() if taken or intake.annotations else None
        _write_quarantine(root, batch, intake.refused)
        if batch is not None:
            write_json(journal, sorted(_files(folder)))
            _write_batch(root, opened, intake, taken, batch, data, images)
            journal.unlink()
    return _report(intake, batch)


def _report(intake: Intake, batch: str | None) -> IngestReport:
    taken = [new for new in intake.new if new.taken]
    labels = (new.label if isinstance(new.label, list) else [new.label] for new in taken if new.label is not None)
    splits = Counter(new.verdict for new in taken)
    return IngestReport(
        batch=batch,
        offered=intake.offered,
        taken=len(taken),
        known=intake.known,
        tombstoned=intake.tombstoned,
        annotated=len(intake.annotations),
        unlabelled=sum(new.label is None for new in taken),
        quarantined=tuple(intake.refused),
        classes=dict(sorted(Counter(name for names in labels for name in names).items())),
        splits={name: splits[name] for name in SPLITS if splits[name]},
    )


# --- writing


def _write_batch(
    root: Path, source: Source, intake: Intake, taken: list[int], batch: str, data: DataParams, images: ImagesParams
) -> None:
    """Second reading: shards, annotations, then the manifest that makes them visible."""
    folder = root / "data"
    written: list[tuple[str, pa.Table]] = []  # (shard, measures of its rows)
    for _, parts in groupby(_parts(source, intake, taken, batch, data), key=lambda part: part[0]):
        rows: list[int] = []
        name = shards.write_shard(folder, (rows.extend(new) or table for _, new, table in parts), data.task)
        written.append((name, intake.measures.take(rows)))
        failpoint("ingest.after_shard")
    annotations = _write_annotations(folder, intake.annotations, data.task)
    failpoint("ingest.after_annotations")
    earlier = shards.batches(folder)
    if not earlier:  # a killed first ingest may have left another task's
        (folder / "dataset.json").unlink(missing_ok=True)
    shards.create(folder, data.task)
    failpoint("ingest.before_manifest")
    manifest = shards.BatchManifest(
        seq=max((found.seq for found in earlier), default=0) + 1,
        batch=batch,
        kind=intake.kind,
        shards=[name for name, _ in written],
        annotations=annotations,
        rows=len(taken),
        quarantined=dict(sorted(Counter(refused.reason for refused in intake.refused).items())),
        offered=intake.offered,
    )
    shards.write_batch(folder, manifest)
    failpoint("ingest.after_manifest")
    for name, measures in written:  # so that stage inspect need not decode them again
        store_measures(root, name, images, measures)
    failpoint("ingest.after_measures")


def _parts(
    source: Source, intake: Intake, taken: list[int], batch: str, data: DataParams
) -> Iterator[tuple[int, list[int], pa.Table]]:
    """(number of the shard, rows of intake.new, their table) in the order of the source, a few rows at a time.

    A table's images are good until the next one is asked for.
    """
    schema = sample_schema(data.task)
    without_image = pa.schema([field for field in schema if field.name != "image"])
    wanted = {intake.new[row].number: row for row in taken}
    last = max(wanted, default=-1)
    shard, held, size = 0, 0, 0  # rows and bytes in this shard so far
    rows, samples, images = [], [], ImageColumn()
    for number, offered in enumerate(islice(source.rows(), last + 1)):
        row = wanted.pop(number, None)
        if row is None:
            continue
        rows.append(row)
        samples.append(_sample(offered, intake.new[row], batch, intake.kind, data))
        size += images.append(_encoded(offered, intake.new[row]), offered.path)
        held += 1
        full = size >= shards.SHARD_BYTES or held >= SHARD_ROWS or number == last
        if full or len(samples) == shards.ROW_GROUP:
            table = pa.Table.from_pylist(samples, schema=without_image).append_column("image", images.array())
            yield shard, rows, table.select(schema.names)
            images.clear()
            rows, samples = [], []
        if full:
            shard, held, size = shard + 1, 0, 0
    if wanted:
        raise DataError(f"{source.path} became shorter while it was read: run the ingest again")


def _encoded(offered: Offered, new: New) -> bytes:
    """The image's bytes. Raises DataError when they are not what they were at the first reading."""
    encoded = offered.read()
    if sha256_bytes(encoded) != new.image:
        raise DataError(f"{offered.where} changed while it was read: run the ingest again")
    return encoded


def _sample(offered: Offered, new: New, batch: str, kind: str, data: DataParams) -> dict:
    """A row of the data set, without its image."""
    return {
        "id": new.image,
        "label": fields.label(offered.label, data.task, data.classes),
        "source": offered.source,
        "taken_at": offered.taken_at,
        "origin": kind if kind in ("production", "review") else "import",
        "batch": batch,
        "slice": [{"name": name, "value": value} for name, value in offered.slices],
        "split": new.verdict,
    }


def _write_annotations(folder: Path, rows: list[dict], task: str) -> list[str]:
    """One file named by its content, or none."""
    if not rows:
        return []
    schema = ANNOTATIONS.insert(1, pa.field("label", label_type(task)))
    buffer = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), buffer, compression="zstd")
    content = buffer.getvalue()
    name = f"{sha256_bytes(content)[:24]}.parquet"
    with atomic_path(folder / "annotations" / name) as temporary:
        temporary.write_bytes(content)
    return [name]


def _write_quarantine(root: Path, batch: str | None, refused: list[Refused]) -> None:
    """What was refused and why, for people: <state>/quarantine/<batch>.parquet. The bytes are not kept."""
    if not refused:
        return
    name = batch or "refused-" + content_key([[row.where, row.reason] for row in refused])[:12]
    columns = ("where", "reason", "detail")
    table = pa.table({column: pa.array([getattr(row, column) for row in refused], pa.string()) for column in columns})
    with atomic_path(state_dir(root) / "quarantine" / f"{name}.parquet") as temporary:
        pq.write_table(table, temporary)


# --- one at a time, and nothing left behind


@contextmanager
def data_lock(root: Path) -> Iterator[Path]:
    """Hold the data set's lock (the kernel frees a dead holder's); yields where to journal what data/ held.

    A journal that is still there is a killed ingest's: files it has added, which no manifest names, are removed.
    Files that were there before it are never touched, whatever they are.
    """
    folder = root / "data"
    state = state_dir(root) / "ingest"
    state.mkdir(parents=True, exist_ok=True)
    name = content_key(str(folder.resolve()))[:16]
    journal = state / f"{name}.json"
    with open(state / f"{name}.lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("waiting for another ingest to end", file=sys.stderr)
            wait_for_lock(lock, WAIT_SECONDS, f"the data set {folder}")
        if journal.is_file():
            _remove_leftovers(folder, before=set(read_json(journal)))
            journal.unlink()
        yield journal


def _files(folder: Path) -> Iterator[str]:
    """Shards, annotations and unfinished files in data/, as paths relative to it."""
    for pattern in ("*.parquet", "annotations/*.parquet", ".*.tmp", "annotations/.*.tmp", "batches/.*.tmp"):
        yield from (str(file.relative_to(folder)) for file in folder.glob(pattern))


def _remove_leftovers(folder: Path, before: set[str]) -> None:
    named = {name for batch in shards.batches(folder) for name in batch.shards}
    named |= {f"annotations/{name}" for batch in shards.batches(folder) for name in batch.annotations}
    for name in set(_files(folder)) - named - before:
        (folder / name).unlink()
