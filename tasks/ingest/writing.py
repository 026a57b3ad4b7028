"""Write a batch: the second reading of a source copies the bytes of the taken images into shards.

Shards and annotations are written first and the batch manifest last, so that no reader sees a part of a batch. Each
image must still have the bytes of the first reading (tasks.ingest.reading); otherwise the ingest stops.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import groupby, islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.common.errors import DataError
from tasks.common.failpoints import failpoint
from tasks.common.files import atomic_path, content_key, sha256_bytes
from tasks.common.paths import state_dir
from tasks.common.schemas import sample_schema
from tasks.dataset import shards
from tasks.ingest.found import IngestSettings, NewImage, Reading, Refused
from tasks.ingest.image_column import ImageColumn
from tasks.inspection.measures import store_measures
from tasks.labels.storing import write_annotations
from tasks.sources.offered import Offered
from tasks.sources.source import Source

SHARD_ROWS = 20_000  # with more rows, shards of tiny images would have features and pixels of gigabytes


def write_batch(root: Path, source: Source, reading: Reading, batch: str) -> None:
    """Write the shards and annotations of `batch`, then the manifest that makes both count.

    Afterwards it stores the measures of the new rows, so that stage inspect need not decode them again.
    """
    folder, data = root / "data", reading.settings.data
    written: list[tuple[str, pa.Table]] = []  # (shard, measures of its rows)
    for _, parts in groupby(shard_parts(source, reading, batch), key=lambda part: part[0]):
        rows: list[int] = []
        name = shards.write_shard(folder, (rows.extend(new) or table for _, new, table in parts), data.task)
        written.append((name, reading.measures.take(rows)))
        failpoint("ingest.after_shard")
    earlier = shards.batches(folder)
    if not earlier:  # a killed first ingest may have left a data set of another task
        (folder / "dataset.json").unlink(missing_ok=True)
    shards.create_dataset(folder, data.task)
    shards.raise_schema(folder)
    taken, refused = len(reading.taken_rows()), Counter(refused.reason for refused in reading.refused)
    alone = bool(earlier and reading.annotations and not taken and not refused)
    write_annotations(folder, reading.annotations, batch, needs=None if alone else batch)
    failpoint("ingest.after_annotations")
    if alone:  # labels only: nothing changes for those who read samples
        return
    failpoint("ingest.before_manifest")
    manifest = shards.BatchManifest(
        seq=shards.next_seq(folder),
        batch=batch,
        kind=reading.settings.kind,
        shards=[name for name, _ in written],
        rows=taken,
        quarantined=dict(sorted(refused.items())),
        offered=reading.offered,
    )
    shards.write_manifest(folder, manifest)
    failpoint("ingest.after_manifest")
    for name, measures in written:
        store_measures(root, name, reading.settings.images, measures)
    failpoint("ingest.after_measures")


def shard_parts(source: Source, reading: Reading, batch: str) -> Iterator[tuple[int, list[int], pa.Table]]:
    """(number of the shard, rows of reading.new, their table) in the order of the source, ROW_GROUP rows at a time.

    A table's images are valid only until the next table is requested: all tables share one buffer.
    """
    data = reading.settings.data
    schema = sample_schema(data.task)
    without_image = pa.schema([field for field in schema if field.name != "image"])
    wanted = {reading.new[row].number: row for row in reading.taken_rows()}
    last = max(wanted, default=-1)
    shard, held, size = 0, 0, 0  # rows and bytes in this shard so far
    rows, samples, images = [], [], ImageColumn()
    for number, offered in enumerate(islice(source.rows(), last + 1)):
        row = wanted.pop(number, None)
        if row is None:
            continue
        rows.append(row)
        samples.append(_sample(offered, reading.new[row], batch, reading.settings))
        size += images.append(_read_unchanged(offered, reading.new[row]), offered.path)
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


def _read_unchanged(offered: Offered, new: NewImage) -> bytes:
    """The image's bytes. Raises DataError when they differ from those of the first reading."""
    encoded = offered.read()
    if sha256_bytes(encoded) != new.image:
        raise DataError(f"{offered.where} changed while it was read: run the ingest again")
    return encoded


def _sample(offered: Offered, new: NewImage, batch: str, settings: IngestSettings) -> dict:
    """A row of the data set, without its image."""
    kind = settings.kind
    return {
        "id": new.image,
        "key": offered.key,
        "label": new.label,
        "source": offered.source,
        "group": new.group,
        "taken_at": offered.taken_at,
        "origin": kind if kind in ("production", "review", "synthetic") else "import",
        "batch": batch,
        "slice": [{"name": name, "value": value} for name, value in offered.slices],
        "split": new.verdict,
        "picked": settings.picked_of(offered),
        "sampling_probability": offered.sampling_probability,
    }


def write_quarantine(root: Path, batch: str | None, refused: list[Refused], pictures: Mapping[int, bytes]) -> None:
    """List refused rows and their reasons for people, in <state>/quarantine/<batch>.parquet, without their bytes.

    pictures: place in `refused` -> small PNG, kept as <state>/quarantine/<batch>/<place>.png: an erasure finds by its
    look what shows the erased image.
    """
    if not refused:
        return
    name = batch or "refused-" + content_key([[row.where, row.reason] for row in refused])[:12]
    columns = ("where", "reason", "detail")
    table = pa.table({column: pa.array([getattr(row, column) for row in refused], pa.string()) for column in columns})
    folder = state_dir(root) / "quarantine"
    for place, png in pictures.items():
        with atomic_path(folder / name / f"{place}.png") as temporary:
            temporary.write_bytes(png)
    with atomic_path(folder / f"{name}.parquet") as temporary:
        pq.write_table(table, temporary)
