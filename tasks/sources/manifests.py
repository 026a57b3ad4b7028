"""Read manifests of every form as records {column: raw value}, row by row.

A file that cannot be read raises DataError. A row that cannot be read is given as `Unusable` in place of its values.
"""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

from tasks.common.errors import DataError
from tasks.sources.exports import coco_or_label_studio, cvat_records
from tasks.sources.fields import Unusable
from tasks.sources.parquet_records import parquet_records
from tasks.sources.records import WORDS, Columns, Record, find_columns
from tasks.sources.tables import Table, fit_cells, open_table, open_text

ONE_HOT = "(a column per class)"  # stands for the label column where each class has a column of 0 and 1
ON, OFF = ("1", "1.0", "true", "True", "TRUE"), ("", "0", "0.0", "false", "False", "FALSE")
WHOLE = re.compile(r"(-?\d+)(\.0+)?")
NAMING = ("label", "source", "group", "annotator", "key")  # roles whose numbers are names
FIRST = 1000  # records of JSON lines whose keys are the columns


def text_records(file: Path, columns: Columns, images: bool) -> Iterator[Record]:
    """CSV with a header line. Empty cells are None; where a column holds 1.0 for 1, as pandas writes gaps, it is 1."""
    table = open_table(file, WORDS)
    roles, hot = _roles(file, table.names, columns)
    whole = _whole_columns(file, {getattr(roles, role) for role in NAMING} - {None, ONE_HOT})
    for line, cells in table.rows:
        where = f"{file.name} line {line}"
        if misfit := fit_cells(cells, table.names):
            yield where, roles, Unusable("bad_row", misfit)
            continue
        record = {name: value or None for name, value in zip(table.names, cells, strict=False) if name}
        for name in whole:
            record[name] = WHOLE.sub(r"\1", record[name]) if record[name] else None
        if hot is not None:
            record[ONE_HOT] = hot(record)
        yield where, roles, record


def _roles(file: Path, names: list[str], columns: Columns) -> tuple[Columns, Callable[[dict[str, Any]], Any] | None]:
    """(the columns' roles, what reads the label where each class has a column of its own)."""
    roles = find_columns(names, replace(columns, label_optional=True), str(file))
    if roles.label is not None or columns.label_optional or columns.unlabelled:
        return roles, None
    used = {getattr(roles, role) for role in ("image", *NAMING, "time", "split")} | set(roles.slices)
    places = {number: name for number, name in enumerate(names) if name and name not in used}
    several, any_on = False, False
    for _, cells in open_table(file, WORDS).rows:
        if len(cells) < len(names):
            continue
        places = {number: name for number, name in places.items() if cells[number] in (*ON, *OFF)}
        on = sum(cells[number] in ON for number in places)
        several, any_on = several or on > 1, any_on or on > 0
    if len(places) < 2 or not any_on:
        return find_columns(names, columns, str(file)), None  # raises: there is no label
    classes = list(places.values())

    def label(record: dict[str, Any]) -> Any:
        found = [name for name in classes if record.get(name) in ON]
        return found if several else found[0] if found else None

    return replace(roles, label=ONE_HOT), label


def _whole_columns(file: Path, names: set[str]) -> set[str]:
    """Those of the columns `names` that hold whole numbers only, some written like 1.0."""
    table: Table = open_table(file, WORDS)
    places = {name: table.names.index(name) for name in names}
    written: set[str] = set()
    for _, cells in table.rows:
        for name, place in list(places.items()):
            cell = cells[place] if place < len(cells) else ""
            if cell and (found := WHOLE.fullmatch(cell)) is None:
                del places[name]
            elif cell and found[2]:
                written.add(name)
        if not places:
            break
    return written & places.keys()


def json_records(file: Path, columns: Columns, images: bool) -> Iterator[Record]:
    """JSON lines: one object per line, whose keys are the columns."""
    lines, _ = open_text(file, "JSON lines")
    with lines:
        objects = ((number, _object(line)) for number, line in enumerate(lines, 1) if line.strip())
        first = list(islice(objects, FIRST))
        names = dict.fromkeys(name for _, found in first if isinstance(found, dict) for name in found)
        if first and not names:
            raise DataError(f"{file} cannot be read as JSON lines: line {first[0][0]}: {first[0][1].detail}")
        roles = find_columns(list(names), columns, str(file)) if first else columns
        for number, found in chain(first, objects):
            yield f"{file.name} line {number}", roles, found


def _object(line: str) -> dict[str, Any] | Unusable:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        return Unusable("bad_row", f"not JSON: {error}")
    if not isinstance(found, dict):
        return Unusable("bad_row", f"expected a JSON object, found {type(found).__name__}")
    return found


READERS: dict[str, Callable[[Path, Columns, bool], Iterator[Record]]] = {
    ".csv": text_records,
    ".tsv": text_records,
    ".jsonl": json_records,
    ".ndjson": json_records,
    ".parquet": parquet_records,
    ".json": coco_or_label_studio,
    ".xml": cvat_records,
}
IN_FOLDERS = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")  # .json and .xml are often something else


def named_paths(manifest: Path, columns: Columns | None = None) -> Iterator[str]:
    """The image paths in `manifest`, unchecked. Images stored inside it have none."""
    for _, roles, record in READERS[manifest.suffix.lower()](manifest, columns or Columns(), True):
        value = None if isinstance(record, Unusable) else record.get(roles.image)
        if isinstance(value, dict):
            value = value.get("path") if value.get("bytes") is None else None
        if isinstance(value, str):
            yield value
