"""Read manifests (CSV, JSON lines, Parquet) as records {column: raw value}, a few rows at a time.

A file that cannot be read, or that lacks a requested column, raises DataError with the columns it has.
"""

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.common.errors import DataError
from tasks.sources.fields import Unusable

BATCH = 64  # Parquet rows at a time

ALIASES = {
    "image": ("image", "img", "path", "file", "filename", "file_name", "filepath", "image_path", "image_file"),
    "label": ("label", "labels", "class", "class_name", "target", "category"),
    "source": ("source", "camera", "camera_id", "site", "site_id", "device"),
    "group": (
        *("group", "group_id", "session", "session_id", "track", "track_id", "sequence", "sequence_id", "video"),
        *("video_id", "patient", "patient_id", "subject", "subject_id", "user", "user_id", "person", "person_id"),
        *("object", "object_id", "instance_id", "scene_id", "burst"),
    ),
    "time": ("taken_at", "time", "timestamp", "date", "datetime", "captured_at"),
    "annotator": ("annotator", "annotator_id", "labeler", "labeller", "rater", "labelled_by", "labeled_by"),
    "labelled_at": ("labelled_at", "labeled_at", "annotated_at"),
    "split": ("split", "subset"),
    "key": (
        *("key", "order", "order_id", "order_number", "order_no", "part_id", "part_number", "part_no", "serial"),
        *("serial_number", "serial_no", "barcode", "item_id", "sample_id", "image_id", "id"),
    ),
    "picked": (),  # never guessed: the word has other meanings
    "sampling_probability": (),
}
SLICES = (
    "camera",
    "site",
    "product",
    "shift",
    "line",
    "station",
    "machine",
    "weather",
    "lighting",
)  # guessed as slices


@dataclass(frozen=True)
class Columns:
    """Names of a manifest's columns; None: found by ALIASES, ignoring case.

    Slices are the columns `slices`, those called like SLICES that have no other role, every column `slice_<name>`, and
    the entries of a column `slice`, a list of {name, value}.
    """

    image: str | None = None  # a path, or the image itself
    label: str | None = None
    source: str | None = None  # camera, site: a slice
    group: str | None = None  # object, session, track: never divided between splits
    time: str | None = None
    annotator: str | None = None
    labelled_at: str | None = None
    split: str | None = None
    key: str | None = None  # the owner's: order number, part id, file name
    picked: str | None = None  # one of tasks.common.schemas.PICKED
    sampling_probability: str | None = None
    slices: tuple[str, ...] = ()
    unlabelled: bool = False  # ignore any label column
    label_optional: bool = False  # the class is read from the path where no column has it


Record = tuple[str, Columns, dict[str, Any]]  # (where, for messages; the columns' names; the values)


def find_columns(names: Sequence[str], columns: Columns, where: str, class_labels: Sequence[str] = ()) -> Columns:
    """`columns` with each missing name filled in from the manifest's `names` where one fits.

    Raises DataError, which lists `names`, if a named column, the image or the label is missing.
    """
    if duplicates := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"{where}: more than one column is called {duplicates[0]!r}: rename one")
    found, lower = {}, {name.lower(): name for name in reversed(names)}
    listing = ", ".join(map(repr, names[:40])) or "none"
    for role, aliases in ALIASES.items():
        wanted = getattr(columns, role)
        if wanted is not None and wanted not in names:
            raise DataError(f"{where}: no column {wanted!r} (for the {role}); columns found: {listing}")
        found[role] = wanted or next((lower[alias] for alias in aliases if alias in lower), None)
    if found["image"] is None:
        raise DataError(
            f"{where}: no image or path column; columns found: {listing}. Name it (--image NAME), or call it `image`"
        )
    if columns.unlabelled:
        found["label"] = None
    elif found["label"] is None and len(class_labels) == 1:
        found["label"] = class_labels[0]
    elif found["label"] is None and not columns.label_optional:
        raise DataError(
            f"{where}: no label column; columns found: {listing}. Name it (--label NAME), or call it `label`"
        )
    for name in columns.slices:
        if name not in names:
            raise DataError(f"{where}: no column {name!r} (for a slice); columns found: {listing}")
    used = {*columns.slices, *found.values()}
    guessed = [name for name in names if name.lower() in SLICES and name not in used]
    return Columns(**found, slices=(*columns.slices, *guessed), unlabelled=columns.unlabelled)


def text_records(file: Path, columns: Columns, images: bool) -> Iterator[Record]:
    """CSV in UTF-8; the separator is the most frequent of , ; and tab in the header. Empty cells are None."""
    try:
        with open(file, encoding="utf-8-sig", newline="") as lines:
            header = lines.readline()
            lines.seek(0)
            reader = csv.reader(lines, delimiter=max(",;\t", key=header.count), strict=True)
            names = [name.strip() for name in next(reader, [])]
            if not any(names):
                raise DataError(f"{file} is empty: expected a header line with column names")
            roles = find_columns(names, columns, str(file))
            for values in reader:
                if not values:
                    continue
                where = f"{file.name} line {reader.line_num}"
                if len(values) != len(names):
                    raise DataError(f"{where} has {len(values)} fields, the header has {len(names)}")
                yield where, roles, {name: value or None for name, value in zip(names, values, strict=True)}
    except (ValueError, csv.Error, OSError) as error:
        raise DataError(f"{file} cannot be read as CSV in UTF-8: {error}") from None


def json_records(file: Path, columns: Columns, images: bool) -> Iterator[Record]:
    """JSON lines in UTF-8: one object per line, whose keys are the columns."""
    roles = None
    try:
        with open(file, encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                record = json.loads(line)
                if not isinstance(record, dict):
                    raise DataError(f"{file} line {number}: expected a JSON object, found {type(record).__name__}")
                roles = roles or find_columns(list(record), columns, f"{file} line {number}")
                yield f"{file.name} line {number}", roles, record
    except (ValueError, RecursionError, OSError) as error:
        raise DataError(f"{file} cannot be read as JSON lines in UTF-8: {error}") from None


def parquet_records(file: Path, columns: Columns, images: bool) -> Iterator[Record]:
    """Parquet, BATCH rows at a time and without read-ahead: memory stays far below a row group of photos."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        parquet = pq.ParquetFile(file, pre_buffer=False, buffer_size=1 << 20)
        schema = parquet.schema_arrow
        names_of = class_label_names(schema.metadata)
        roles = find_columns(schema.names, columns, str(file), list(names_of))
        wanted = {getattr(roles, role) for role in ALIASES} | set(roles.slices)
        taken = [n for n in schema.names if n in wanted or n == "slice" or n.startswith("slice_")]
        if not images:
            taken.remove(roles.image)
        number = 0
        for batch in parquet.iter_batches(batch_size=BATCH, columns=taken):
            columns_of = {name: _values(batch.column(name)) for name in taken}
            for row in range(batch.num_rows):
                record = {name: values[row] for name, values in columns_of.items()}
                record = {n: v.as_py() if isinstance(v, pa.Scalar) else v for n, v in record.items()}
                if roles.label in names_of:
                    record[roles.label] = label_name(record[roles.label], names_of[roles.label])
                yield f"{file.name} row {number}", roles, record
                number += 1
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file} cannot be read as Parquet: {error}") from None


def _values(column: Any) -> Any:
    """A Parquet column as Python values; images stay in Arrow until their row is reached."""
    import pyarrow as pa

    if pa.types.is_struct(column.type) or pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):
        return column
    if pa.types.is_timestamp(column.type):  # a datetime cannot hold nanoseconds and unknown zones
        column = column.cast(pa.timestamp("us", tz="UTC"), safe=False)
    try:
        return column.to_pylist()
    except (ValueError, OverflowError):  # a time outside the years 1 to 9999: only its row fails
        return column.cast(pa.string()).to_pylist()


def class_label_names(metadata: dict[bytes, bytes] | None) -> dict[str, list[str]]:
    """Column -> class names, for the columns that Hugging Face's metadata declares as ClassLabel or a list of it."""
    found = {}
    try:
        features = json.loads((metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        for name, feature in features.items():
            inner = feature[0] if isinstance(feature, list) else feature
            while isinstance(inner, dict) and inner.get("_type") in ("List", "LargeList", "Sequence"):
                inner = inner["feature"]
            if isinstance(inner, dict) and inner.get("_type") == "ClassLabel":
                found[name] = [str(value) for value in inner["names"]]
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        return {}  # metadata of another form: use the column's values as they are
    return found


def label_name(value: Any, names: list[str]) -> Any:
    """ClassLabel numbers as names; the `datasets` library writes -1 for a missing label."""
    if isinstance(value, list):
        return [label_name(part, names) for part in value]
    if isinstance(value, int) and not isinstance(value, bool):
        if value == -1:
            return None
        return names[value] if 0 <= value < len(names) else Unusable("bad_label", f"{value}, of {len(names)} classes")
    return value
