"""One row of a source, as a manifest's record or a file in a folder gives it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any

from tasks.common.cells import is_missing, optional_text, without_surrogates
from tasks.sources.fields import Unusable, probability, split
from tasks.sources.records import Columns
from tasks.sources.safe_files import read_file, resolve_inside
from tasks.sources.times import Times


@dataclass(frozen=True, slots=True)
class Offered:
    """One row of a source. `label` is the raw value, which fields.label parses; the other values are typed."""

    where: str  # for messages: "labels.csv line 12"
    path: str | None = None  # relative to the source, "/"-separated; stored with the bytes
    image: bytes | Path | None = None  # the encoded image, or a checked file that holds it
    label: Any = None
    source: str | None = None
    group: str | None = None
    taken_at: datetime | None = None
    slices: tuple[tuple[str, str], ...] = ()  # (name, value), sorted
    annotator: str | None = None
    labelled_at: datetime | None = None
    split: tuple[str, ...] = ()  # allowed splits; one: given by the source; empty: any but hard
    bad_time: str | None = None  # a time that cannot be read, as written; the image is offered without a time
    refused: Unusable | None = None
    key: str | None = None  # the owner's: order number, part id, file name
    picked: str | None = None  # one of schemas.PICKED; None: not said
    sampling_probability: float | None = None  # of an audit sample

    def read(self) -> bytes:
        """The encoded image. Raises Unusable."""
        if self.refused is not None:
            raise self.refused
        return self.image if isinstance(self.image, bytes) else read_file(self.image)


def offer(
    where: str, roles: Columns, record: dict[str, Any] | Unusable, root: Path, given: tuple[str, ...], times: Times
) -> Offered:
    """The row that a manifest's record describes. `given`: its splits if it names none."""
    if isinstance(record, Unusable):
        return Offered(without_surrogates(where), refused=record)

    def value(role: str) -> Any:
        column = getattr(roles, role)
        return None if column is None else record.get(column)

    row = Offered(
        without_surrogates(where),
        label=value("label"),
        source=optional_text(value("source")),
        group=optional_text(value("group")),
        annotator=optional_text(value("annotator")),
        slices=_slices(record, roles.slices),
        key=optional_text(value("key")),
        picked=optional_text(value("picked")),
        sampling_probability=probability(value("sampling_probability")),
    )
    try:
        if roles.image in record:
            image, path = _image(value("image"), root)
            row = replace(row, image=image, path=path)
        named = split(value("split"))
    except Unusable as error:
        return replace(row, refused=error)
    taken_at, bad_time = read_time(value("time"), times)
    labelled_at, bad = read_time(value("labelled_at"), times)
    split_of = (named,) if named else given
    return replace(row, taken_at=taken_at, labelled_at=labelled_at, split=split_of, bad_time=bad_time or bad)


def read_time(value: Any, times: Times) -> tuple[datetime | None, str | None]:
    """(the time, None), or (None, as it is written) if it cannot be read."""
    try:
        return times.read(value), None
    except Unusable:
        return None, str(value)[:60]


def _image(value: Any, root: Path) -> tuple[bytes | Path, str | None]:
    """(bytes or checked file, path to store) of a path, bytes, or Hugging Face's {bytes, path}."""
    if isinstance(value, dict):
        if value.get("bytes") is not None:
            return value["bytes"], _stored_path(value.get("path"))
        value = value.get("path")
    if isinstance(value, bytes):
        return value, None
    if is_missing(value) or not isinstance(value, str) or not value:
        raise Unusable("missing_file", "no path and no bytes")
    file = resolve_inside(root, value)
    return file, without_surrogates(file.relative_to(root.resolve()).as_posix())


def _stored_path(path: Any) -> str | None:
    """`path` as stored with the bytes: it reveals nothing about the machine and is safe to write to."""
    if not isinstance(path, str) or not path:
        return None
    pure = PurePosixPath(without_surrogates(path))
    return (pure.name if pure.is_absolute() or ".." in pure.parts else str(pure))[:500]


def _slices(record: dict[str, Any], columns: Sequence[str]) -> tuple[tuple[str, str], ...]:
    found = {column: optional_text(record.get(column)) for column in columns}
    listed = record.get("slice")
    for entry in listed if isinstance(listed, list | tuple) else ():
        if isinstance(entry, dict):
            found[optional_text(entry.get("name"))] = optional_text(entry.get("value"))
    for column, value in record.items():
        if column.startswith("slice_"):
            found[optional_text(column.removeprefix("slice_"))] = optional_text(value)
    return tuple(sorted((name, value) for name, value in found.items() if name and value))
