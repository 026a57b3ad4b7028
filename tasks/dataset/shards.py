"""The data set on disk: immutable Parquet shards, batch manifests, annotations.

    data/
      dataset.json                      {"schema": 3, "task": "multiclass"}
      <sha256[:24]>.parquet             a shard: sample_schema(task), image bytes read last
      batches/<seq>-<batch>.json        written last: a shard exists only once a manifest lists it
      batches/<seq>-h-<hash>.parquet    what people changed in the hard set (tasks.dataset.hard_set)
      annotations/                      what people say about samples (tasks.dataset.annotation_files)

Everything is append-only and named by content. So the additions of two runs merge without conflict, DVC stores each
shard once, and the same input gives the same bytes. Every reader hashes: a shard's columns count only if the whole file
has the hash in its name, an image only if it has the hash that is its id (tasks.common.verified). Of a large shard a
sealed copy of the columns is read, made when its hash was right (tasks.dataset.column_copies).

A group (object, session, track) is never divided between splits or folds. Shards of version 1 have no groups: there
the source (camera, site, session) was the group key, so a source recorded there is a group of that name for life. In
newer shards the source is only a slice. Shards before version 3 have no owner's keys and do not say how an image was
picked: imports count as representative, all others as unknown.
"""

import json
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict

from tasks.common.errors import DamagedFile, DataError, refuse_newer
from tasks.common.files import atomic_path, fsync_dir, read_json, sha256_bytes, sha256_file, write_json
from tasks.common.private import make_folder
from tasks.common.schemas import sample_schema
from tasks.common.verified import check_named, open_named
from tasks.dataset.annotation_files import FOLDER, AnnotationBatch, annotation_batches, manifest_file, read_manifest
from tasks.dataset.column_copies import open_columns
from tasks.dataset.hard_set import change_files, current_splits

SCHEMA_VERSION = 3  # of everything under data/: shards, batch manifests, annotations; dataset.json says the newest
HARD_SET_VERSION = 4  # of a data set whose hard set people changed: earlier code would train on these images
ADDED = {
    "group": 2,
    "key": 3,
    "picked": 3,
    "sampling_probability": 3,
}  # columns of shards, and the first version with them
# Annotations before version 3 have no role: `why` says review or import. data/batches lists their files.
ROW_GROUP = 64  # rows; reading bytes in large groups costs a gigabyte of memory
SHARD_BYTES = 64 << 20  # target size of a shard


class BatchManifest(BaseModel):
    """One ingest. `seq` orders batches; equal seqs (two branches merged) are ordered by batch id."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seq: int
    batch: str  # "b-" + 12 hex digits of the hash of its content
    kind: str  # "import" | "production" | "review" | "hard" | "synthetic"
    shards: list[str]  # file names under data/
    annotations: list[str] = []  # file names under data/annotations/; before version 3 only
    rows: int
    quarantined: dict[str, int] = {}  # reason -> rows refused at ingest
    offered: int = 0  # rows the input had (taken + known + quarantined)


class Shard(BaseModel):
    """A shard of a live batch, with its path."""

    model_config = ConfigDict(frozen=True)

    name: str
    batch: str
    path: Path


def read_task(data: Path) -> str:
    """ "multiclass" or "multilabel". Raises DataError when `data` does not hold a data set."""
    marker = data / "dataset.json"
    if not marker.is_file():
        raise DataError(
            f"{data} does not hold a data set (dataset.json is missing): run `evergreen ingest` or `dvc pull` first"
        )
    try:
        about = read_json(marker)
        refuse_newer(about.get("schema"), HARD_SET_VERSION, str(marker))
        task = about["task"]
    except (ValueError, AttributeError, KeyError):
        task = None
    if task not in ("multiclass", "multilabel"):
        raise DataError(
            f"{marker} does not say the task of a data set: it was cut off or altered. `dvc checkout data.dvc` brings "
            "back the one that is committed"
        )
    return task


def create_dataset(data: Path, task: str) -> None:
    """Start an empty data set; does nothing if it exists with the same task."""
    if (data / "dataset.json").is_file():
        if (found := read_task(data)) != task:
            raise DataError(
                f"{data} is a {found} data set, params.yaml says data.task: {task}: "
                "restore the old value, or create a new project"
            )
        return
    write_json(data / "dataset.json", {"schema": SCHEMA_VERSION, "task": task})


def raise_schema(data: Path, version: int = SCHEMA_VERSION) -> None:
    """Let dataset.json say schema `version`, before files of it are added to an older data set."""
    task = read_task(data)
    if (read_json(data / "dataset.json").get("schema") or 1) < version:
        write_json(data / "dataset.json", {"schema": version, "task": task})


def batches(data: Path) -> list[BatchManifest]:
    """All batches in ingest order."""
    found = [read_manifest(file, BatchManifest) for file in (data / "batches").glob("*.json")]
    return sorted(found, key=lambda b: (b.seq, b.batch))


def write_manifest(data: Path, manifest: BatchManifest) -> None:
    """Make a batch visible: the only commit point of an ingest."""
    write_json(data / "batches" / f"{manifest.seq:06d}-{manifest.batch}.json", manifest.model_dump())


def next_seq(data: Path) -> int:
    """The number of the next batch, of samples or of annotations, or change of the hard set."""
    return max((one.seq for one in [*batches(data), *counted_annotations(data), *change_files(data)]), default=0) + 1


def counted_annotations(data: Path) -> list[AnnotationBatch]:
    """The batches of annotations that count: not those of an ingest whose samples are not there."""
    present = {batch.batch for batch in batches(data)} | {None}
    return [batch for batch in annotation_batches(data) if batch.needs in present]


def known_batches(data: Path) -> set[str]:
    """Ids of all batches, of samples and of annotations."""
    return {batch.batch for batch in [*batches(data), *counted_annotations(data)]}


def listed_files(data: Path) -> set[str]:
    """Shards, annotation files and their manifests that count, as paths relative to `data`."""
    listed, notes = batches(data), counted_annotations(data)
    names = {name for batch in listed for name in batch.shards}
    names |= {f"{FOLDER}/{name}" for batch in listed for name in batch.annotations}
    names |= {f"{FOLDER}/{name}" for batch in notes for name in batch.files}
    return names | {manifest_file(data, batch).relative_to(data).as_posix() for batch in notes}


def read_tombstones(root: Path) -> dict[str, dict]:
    """tombstones.json of a project: batch id -> {why, at, by}. These batches are stored but never trained on."""
    file = root / "tombstones.json"
    try:
        found = read_json(file) if file.is_file() else {}
    except ValueError:
        found = None
    if not isinstance(found, dict) or not all(isinstance(about, dict) for about in found.values()):
        raise DataError(
            f"{file} is not a JSON object of batches that are not trained on: `git checkout {file.name}` brings back "
            "the one that is committed"
        )
    return found


def undo_text(tombstones: dict[str, dict], most: int = 5) -> str:
    """Which batches are tombstoned, why, and how each is allowed again; "" for none."""
    lines = [
        f"Batch {batch} is tombstoned ({about.get('by', '?')}, {about.get('at', '?')}: {about.get('why', '?')}); "
        f"`evergreen tombstone {batch} --undo --why ...` allows it again."
        for batch, about in tombstones.items()
    ]
    more = [f"{len(lines) - most} more are tombstoned: see `evergreen status`."] if len(lines) > most else []
    return " ".join(lines[:most] + more)


def live_shards(data: Path, tombstones: Collection[str] = ()) -> list[Shard]:
    """Shards of all batches that are not tombstoned, in ingest order. Raises DataError for a missing shard."""
    shards = []
    for batch in batches(data):
        if batch.batch in tombstones:
            continue
        for name in batch.shards:
            if not (data / name).is_file():
                raise DataError(
                    f"{data / name} is missing, but batch {batch.batch} lists it: restore it with `dvc checkout`"
                )
            shards.append(Shard(name=name, batch=batch.batch, path=data / name))
    return shards


def write_shard(data: Path, parts: pa.Table | Iterable[pa.Table], task: str, version: int = SCHEMA_VERSION) -> str:
    """Write one shard (sample_schema), named by its content, and return the file name. Same rows, same bytes.

    `parts` may be an iterator of tables of a multiple of ROW_GROUP rows (the last may be shorter). Memory then
    holds one table, not the shard. The file carries the `huggingface` schema metadata, so that
    `datasets`, DuckDB and pandas read the image column as it is. An earlier `version` lacks the columns ADDED later.
    """
    schema = pa.schema([field for field in sample_schema(task) if ADDED.get(field.name, 1) <= version])
    schema = schema.with_metadata({"huggingface": json.dumps(_hugging_face(task, schema.names))})
    make_folder(data)
    staged = data / ".incoming.parquet"
    with (
        atomic_path(staged) as temporary,
        pq.ParquetWriter(
            temporary, schema, compression=_compression(task, schema.names), use_dictionary=_DICTIONARY
        ) as writer,
    ):
        for part in [parts] if isinstance(parts, pa.Table) else parts:
            writer.write_table(part.select(schema.names).cast(schema), row_group_size=ROW_GROUP)
        writer.close()
    name = f"{sha256_file(staged)[:24]}.parquet"
    os.replace(staged, data / name)
    fsync_dir(data)
    return name


_DICTIONARY = ["label", "source", "group", "origin", "batch", "split", "picked"]


def _compression(task: str, names: Sequence[str]) -> dict[str, str]:
    """zstd; Snappy for encoded images, which are compressed already: it finds that out in a third of the time."""
    nested = {"image": ["image.bytes", "image.path"], "slice": ["slice.list.element.name", "slice.list.element.value"]}
    if task == "multilabel":
        nested["label"] = ["label.list.element"]
    leaves = [leaf for name in names for leaf in nested.get(name, [name])]
    return dict.fromkeys(leaves, "zstd") | {"image.bytes": "snappy"}


def _hugging_face(task: str, names: Sequence[str]) -> dict:
    text = {"dtype": "string", "_type": "Value"}
    features = dict.fromkeys(names, text) | {
        "image": {"_type": "Image"},
        "label": text if task == "multiclass" else {"feature": text, "_type": "List"},
        "taken_at": {"dtype": "timestamp[us, tz=UTC]", "_type": "Value"},
        "slice": {"feature": {"name": text, "value": text}, "_type": "List"},
    }
    if "sampling_probability" in names:
        features["sampling_probability"] = {"dtype": "float32", "_type": "Value"}
    return {"info": {"features": features}}


@contextmanager
def open_shard(path: Path, **options) -> Iterator[pq.ParquetFile]:
    """A shard as Parquet, whole: raises DamagedFile if it is not named by its content. options: of pq.ParquetFile."""
    with open_named(path) as file:
        yield pq.ParquetFile(file, **options)


def shard_version(path: Path) -> int:
    """Schema version of a shard, by the columns that it has."""
    with open_columns(path) as shard:
        return max([1, *(ADDED[name] for name in shard.schema_arrow.names if name in ADDED)])


def read_columns(path: Path, columns: Sequence[str]) -> pa.Table:
    """Columns of a shard without its image bytes (never pass "image": memory would hold all of them).

    Columns that an earlier version lacks are null, but `picked` is told by the origin. `shard_groups` says what stands
    in for the group of a version-1 shard. `split` is that of today: people move images into the hard set and out of it
    (tasks.dataset.hard_set).
    """
    if "split" not in columns or not change_files(path.parent):
        return read_recorded_columns(path, columns)
    table = read_recorded_columns(path, list(dict.fromkeys([*columns, "id"])))
    now = current_splits(path.parent, table["id"], table["split"])
    return table.set_column(table.column_names.index("split"), "split", now).select(list(columns))


def read_recorded_columns(path: Path, columns: Sequence[str]) -> pa.Table:
    """As `read_columns`, with the splits in which images were first recorded."""
    with open_columns(path) as shard:
        lacking = {name for name in columns if name in ADDED} - set(shard.schema_arrow.names)
        if not lacking:
            return shard.read(list(columns)).select(list(columns))
        wanted = [name for name in columns if name not in lacking]
        table = shard.read(list(dict.fromkeys([*wanted, "origin"])))
    schema = sample_schema("multiclass")  # the types of these columns are the same for all tasks
    for name in lacking:
        column = pa.nulls(len(table), schema.field(name).type)
        if name == "picked":
            column = pc.if_else(pc.equal(table["origin"], "import"), "representative", "unknown")
        table = table.append_column(name, column)
    return table.select(list(columns))


def read_image_paths(root: Path, rows: pa.Table) -> list[str | None]:
    """What the source called the images of `rows` (columns shard, row); None where it named none."""
    shards, places = rows["shard"].to_pylist(), rows["row"].to_pylist()
    paths = {name: _image_paths(root / "data" / name) for name in set(shards)}
    return [paths[name][place] for name, place in zip(shards, places, strict=True)]


def _image_paths(path: Path) -> list[str | None]:
    # pq.read_table would read the whole struct, and with it the bytes
    with open_columns(path, pre_buffer=False) as shard:
        column = shard.read(columns=["image.path"])["image"]
    return pc.struct_field(column, "path").to_pylist()


def shard_groups(path: Path) -> pa.ChunkedArray:
    """The group of each row of a shard, null: none. In a version-1 shard it is the source."""
    name = "source" if shard_version(path) == 1 else "group"
    return read_columns(path, [name])[name]


def group_keys(samples: pa.Table) -> np.ndarray:
    """The group key of each row, (N,) str: its group, else its near-duplicate cluster.

    samples: N rows with the columns `group` (as inspect writes it) and `cluster`. Rows of one key belong into one fold
    and are one draw of a bootstrap.
    """
    return np.array(pc.coalesce(samples["group"], samples["cluster"]).to_pylist(), dtype=str)


def read_paths(data: Path, shards: Sequence[str], rows: Sequence[int]) -> list[str | None]:
    """The owner's paths of samples, given the shard and the row of each: relative to the source they came from."""
    paths = {}
    for name in set(shards):
        with open_columns(data / name) as shard:
            paths[name] = shard.read(["image.path"]).column("image").combine_chunks().field("path")
    return [paths[name][row].as_py() for name, row in zip(shards, rows, strict=True)]


def iter_bytes(path: Path, rows: Sequence[int] | None = None) -> Iterator[tuple[int, bytes]]:
    """Yield (row, encoded image) of a shard in row order; `rows` (sorted) selects some.

    Each image is hashed and compared with its id, so that a process that reads a few images hashes these alone. Memory
    holds one small row group at a time, however large the shard is. Raises DamagedFile.
    """
    wanted = None if rows is None else set(rows)
    try:
        with pq.ParquetFile(path) as shard:
            for row, name, image in _images(shard, wanted):
                if image is None or (found := sha256_bytes(image)) != name:
                    raise DamagedFile(path, name, image and found, part=f"row {row}")
                yield row, image
    except (pa.ArrowException, OSError):
        check_named(path)  # else it is not the file's fault
        raise


def _images(shard: pq.ParquetFile, wanted: Collection[int] | None) -> Iterator[tuple[int, str, bytes | None]]:
    """(row, id, encoded image) of the rows `wanted` of an open shard; None: of all."""
    start = 0
    for group in range(shard.num_row_groups):
        count = shard.metadata.row_group(group).num_rows
        if wanted is None or not wanted.isdisjoint(range(start, start + count)):
            table = shard.read_row_group(group, columns=["id", "image.bytes"])
            ids, images = table["id"], table["image"].combine_chunks().field("bytes")
            for offset in range(count):
                if wanted is None or start + offset in wanted:
                    yield start + offset, ids[offset].as_py(), images[offset].as_py()
        start += count
