"""Read files of labels: CSV of any spreadsheet, JSON lines, Parquet, exports of Label Studio.

A row names a sample (its id, the beginning of it, its file path or the owner's key) and says its label, or that the
sample is excluded. A row that cannot be used is refused with its place and reason; the others count.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from monitoring.review import label_studio
from tasks.common.cells import is_missing, optional_text
from tasks.common.errors import DataError
from tasks.sources import fields
from tasks.sources.fields import Unusable
from tasks.sources.offered import read_time
from tasks.sources.parquet_records import class_label_names, label_name
from tasks.sources.tables import fit_cells, open_table, open_text, plain_name
from tasks.sources.times import Times

ALIASES = {  # role -> names of its column, the best first
    "name": (
        *("evergreen_id", "id", "sample_id", "sample", "image_id", "sha256"),
        *("key", "order", "order_id", "part_id", "serial", "serial_number"),
        *("path", "file", "filename", "file_name", "filepath", "image_path", "image_file", "image", "img"),
    ),
    "label": ("label", "labels", "class", "class_name", "target", "category"),
    "exclude": ("exclude", "excluded"),
    "annotator": ("annotator", "annotator_id", "labeler", "labeller", "rater", "labelled_by", "labeled_by", "reviewer"),
    "labelled_at": ("labelled_at", "labeled_at", "annotated_at", "updated_at", "created_at"),
    "why": ("comment", "note", "remark"),
}
WORDS = frozenset(alias for aliases in ALIASES.values() for alias in aliases)
YES = ("1", "1.0", "x", "yes", "y", "true", "exclude", "excluded")
NO = ("", "0", "0.0", "no", "n", "false")
EXCLUDE = label_studio.EXCLUDE
NONE = label_studio.NONE
EXPECTED = "labels as .csv, .tsv, .jsonl or .parquet, or an export of Label Studio as .json or .csv"


@dataclass(frozen=True)
class Given:
    """What one row of a file says; `where` names its place for messages.

    names: what may name the sample (id, key, path), the best first. label: None with `exclude`.
    """

    where: str
    names: tuple[str, ...]
    label: str | list[str] | None
    exclude: bool
    annotator: str
    at: datetime | None
    why: str


@dataclass
class LabelFile:
    """The rows of one file of labels."""

    given: list[Given] = field(default_factory=list)
    rows: int = 0
    left: int = 0  # without a label: not seen yet, skipped, or only a draft
    refused: list[str] = field(default_factory=list)  # "labels.csv line 3: why"
    untimed: int = 0  # labels whose time cannot be read: they count as given now
    notes: list[str] = field(default_factory=list)  # how the file was understood


def read_labels(file: Path, task: str, classes: list[str] | None, annotator: str, times: Times) -> LabelFile:
    """Read all rows of `file`. classes: allowed labels, None: all. annotator: who gave labels that name nobody.

    Raises DataError if the file cannot be read at all.
    """
    found = LabelFile()
    for where, values in _records(file, found.notes):
        found.rows += 1
        try:
            if isinstance(values, Unusable):
                raise values
            one = _given(where, values, task, classes, annotator, times, found)
        except Unusable as error:
            known = "; --new-classes accepts it" if error.reason == "unknown_label" else ""
            detail = error.detail.replace("is not in data.classes", "is not a class yet") + known
            found.refused.append(f"{where}: {detail}")
            continue
        if one is None:
            found.left += 1
        else:
            found.given.append(one)
    return found


def _given(
    where: str,
    values: dict[str, Any],
    task: str,
    classes: list[str] | None,
    annotator: str,
    times: Times,
    found: LabelFile,
) -> Given | None:
    exclude = _says_exclude(values.get("exclude"))
    raw = values.get("label")
    raw = raw.strip() if isinstance(raw, str) else raw
    known = classes or ()
    if (raw == EXCLUDE or raw == [EXCLUDE]) and EXCLUDE not in known:
        exclude, raw = True, None
    label = None
    if task == "multilabel" and raw in (NONE, [NONE]) and NONE not in known:
        label = []
    elif not is_missing(raw) and raw not in ("", []):
        label = fields.label(_whole(raw, known), task, classes)
    if label is None and not exclude:
        return None
    if label is not None and exclude:
        raise Unusable("bad_label", f"both a label ({raw!r}) and exclude: expected one of them")
    names = tuple(name for value in values.get("names", ()) if (name := optional_text(value)))
    if not names:
        raise Unusable("bad_label", "no id, key or path")
    at, unread = read_time(values.get("labelled_at"), times)
    found.untimed += unread is not None
    by = optional_text(values.get("annotator")) or annotator
    return Given(where, names, label, exclude, by, at, optional_text(values.get("why")) or "")


def _says_exclude(value: Any) -> bool:
    text = "" if is_missing(value) else str(value).strip().lower()
    if text not in (*YES, *NO):
        raise Unusable("bad_label", f"exclude is {str(value)[:40]!r}: expected yes, or nothing")
    return text in YES


def _whole(raw: Any, classes: list[str] | tuple[str, ...]) -> Any:
    """Give "1" for "1.0" where only that is a class: tables with gaps turn whole numbers into floats."""
    if isinstance(raw, str) and raw.endswith(".0") and raw not in classes and raw[:-2] in classes:
        return raw[:-2]
    return raw


def _records(file: Path, notes: list[str]) -> Iterator[tuple[str, dict[str, Any] | Unusable]]:
    """(where, {role: raw value}) of every row, or why it cannot be used."""
    if not file.is_file():
        found = "is not a file" if file.exists() else "does not exist"
        raise DataError(f"{file} {found}: expected {EXPECTED}")
    kind = file.suffix.lower()
    if kind == ".json":
        yield from _label_studio(file)
    elif kind in (".csv", ".tsv", ".txt"):
        yield from _table(file, notes)
    elif kind in (".jsonl", ".ndjson"):
        yield from _json_lines(file, notes)
    elif kind == ".parquet":
        yield from _parquet(file)
    elif kind in (".xlsx", ".xls", ".ods"):
        raise DataError(f"{file} is a spreadsheet: save it as CSV (UTF-8), then label that file")
    else:
        raise DataError(f"{file}: expected {EXPECTED}")


def _table(file: Path, notes: list[str]) -> Iterator[tuple[str, dict[str, Any] | Unusable]]:
    table = open_table(file, WORDS)
    notes += table.notes
    roles = _roles(table.names, str(file))
    exported = "annotation_id" in table.names  # Label Studio's CSV: its labels are JSON where there are several
    for line, cells in table.rows:
        where = f"{file.name} line {line}"
        if misfit := fit_cells(cells, table.names):
            yield where, Unusable("bad_row", misfit)
            continue
        values = _by_role(dict(zip(table.names, cells, strict=False)), roles)
        label, by = values.get("label"), values.get("annotator")
        if exported and by and by.isdecimal():
            values["annotator"] = label_studio.annotator(int(by))
        if exported and isinstance(label, str) and label.startswith(("{", "[")):
            try:
                values["label"] = label_studio.chosen(json.loads(label))
            except (ValueError, RecursionError):
                yield where, Unusable("bad_label", f"{label[:60]!r} is not a label")
                continue
        yield where, values


def _json_lines(file: Path, notes: list[str]) -> Iterator[tuple[str, dict[str, Any] | Unusable]]:
    text, note = open_text(file, "JSON lines")
    notes += [note] if note else []
    with text:
        lines = list(text)
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{file.name} line {number}"
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield where, Unusable("bad_label", f"not JSON: {error}")
            continue
        if not isinstance(record, dict):
            yield where, Unusable("bad_label", f"expected a JSON object, found {type(record).__name__}")
            continue
        yield where, _by_role(record, _roles(list(record), where, needed=False))


def _parquet(file: Path) -> Iterator[tuple[str, dict[str, Any] | Unusable]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        parquet = pq.ParquetFile(file)
        schema = parquet.schema_arrow
        shown = [f.name for f in schema if not pa.types.is_struct(f.type) and not pa.types.is_binary(f.type)]
        roles = _roles(shown, str(file))
        named = class_label_names(schema.metadata)
        columns = [name for names in roles.values() for name in names]
        rows = parquet.read(columns=columns).to_pylist()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{file} cannot be read as Parquet: {error}") from None
    for number, row in enumerate(rows):
        row = {name: label_name(value, named[name]) if name in named else value for name, value in row.items()}
        yield f"{file.name} row {number}", _by_role(row, roles)


def _label_studio(file: Path) -> Iterator[tuple[str, dict[str, Any] | Unusable]]:
    try:
        with open_text(file, "JSON")[0] as text:
            content = json.load(text)
        found = list(label_studio.answers(content))
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{file} cannot be read as an export of Label Studio: {error}") from None
    for one in found:
        where = f"{file.name} {one.where}"
        if one.problem:
            yield where, Unusable("bad_label", one.problem)
        else:
            yield where, one.values


def _roles(names: list[str], where: str, needed: bool = True) -> dict[str, list[str]]:
    """The columns of each role. Raises DataError if none names the sample, or none says a label."""
    lower: dict[str, str] = {}
    for name in names:
        if needed and names.count(name) > 1 and name:
            raise DataError(f"{where}: more than one column is called {name!r}: rename one")
        lower.setdefault(plain_name(str(name)), name)
    roles = {role: [lower[alias] for alias in aliases if alias in lower] for role, aliases in ALIASES.items()}
    if "evergreen_id" in lower:  # Label Studio's exports: there `id` is the task's own number
        roles["name"] = [name for name in roles["name"] if str(name).lower() not in ("id", "image")]
    listing = ", ".join(repr(name) for name in names[:40]) or "none"
    if needed and not roles["name"]:
        raise DataError(
            f"{where}: no column 'id', 'key' or 'path' says which sample a row is about; columns: {listing}"
        )
    if needed and not roles["label"] and not roles["exclude"]:
        raise DataError(f"{where}: no column 'label' or 'exclude'; columns: {listing}")
    return roles


def _by_role(values: dict[str, Any], roles: dict[str, list[str]]) -> dict[str, Any]:
    found: dict[str, Any] = {"names": [values.get(name) for name in roles["name"]]}
    for role in ("label", "exclude", "annotator", "labelled_at", "why"):
        found[role] = next((values[name] for name in roles[role] if not is_missing(values.get(name))), None)
    return found
