"""Read class folders, CSV, JSON lines or Parquet as one stream of offered rows.

| source                               | label            | split |
|---|---|---|
| folder/<class>/**/image              | the class folder | none |
| folder/{train,val,test}/<class>/...  | the class folder | the folder ("val" is calibration) |
| folder/<class>/{train,val,test}/...  | the class folder | the folder |
| folder of images                     | none             | none |
| .csv .tsv .jsonl .parquet, or a folder that holds one | a column | a column |
| Hugging Face image Parquet, or a folder of it | a column (ClassLabel: its names) | a column or train-*.parquet |

A layout (tasks.sources.layouts) reads label, split and more from the path instead; a manifest's own columns win.

Rows come one at a time, in a fixed order; `Offered.read` reads an image file only when it is needed. An unusable row
gives the reason in `refused`; an unusable source raises DataError. Paths are relative to the manifest's folder and
may not leave it (tasks.sources.safe_files). Nothing is written to a source.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any

from tasks.common.cells import is_missing, optional_text, without_surrogates
from tasks.common.errors import DataError
from tasks.sources.fields import SPLIT_WORDS, Unusable, split
from tasks.sources.folders import IMAGE_SUFFIXES, Contents, files_aside, read_contents
from tasks.sources.layouts import Layout, parse_layout, sample_values
from tasks.sources.records import Columns, json_records, parquet_records, text_records
from tasks.sources.safe_files import list_entries, read_file, resolve_inside, walk, walk_folders
from tasks.sources.times import Times

READERS = {
    ".csv": text_records,
    ".tsv": text_records,
    ".jsonl": json_records,
    ".ndjson": json_records,
    ".parquet": parquet_records,
}
ARCHIVE_SUFFIXES = {".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar", ".zst"}


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


@dataclass(frozen=True)
class Source:
    """A source of known form. Each call of `rows()` gives the same rows."""

    path: Path
    manifests: tuple[Path, ...] = ()  # empty: a folder of images
    columns: Columns = field(default_factory=Columns)
    layout: Layout | None = None
    contents: Contents | None = None  # of a folder of images
    times: Times = field(default_factory=Times)

    def rows(self, images: bool = True) -> Iterator[Offered]:
        """The rows in order. `images=False` skips images stored inside a manifest, which is much faster.

        With a layout they are read all the same, because their paths are stored with them.
        """
        if self.layout is None:
            yield from self._rows(images)
            return
        splits = {} if self.manifests else _splits_by_name(_layout_splits(self.path, self.layout))
        for row in self._rows(images=True):
            # the layout replaces what a folder's structure means, and fills the gaps of a manifest
            yield _placed(
                row if self.manifests else replace(row, label=None, split=()), self.layout, splits, self.times
            )

    def _rows(self, images: bool) -> Iterator[Offered]:
        if not self.manifests:
            yield from _folder_rows(self.path, self.contents)
            return
        by_name = _splits_by_name([_split_of_name(file) for file in self.manifests])
        for file in self.manifests:
            given = by_name.get(_split_of_name(file), ())
            for where, roles, record in READERS[file.suffix.lower()](file, self.columns, images):
                yield _offer(where, roles, record, file.parent, given, self.times)


def open_source(
    path: Path, columns: Columns | None = None, layout: str | None = None, times: Times | None = None
) -> Source:
    """Detect the form of the source at `path`. `layout` is a template of tasks.sources.layouts.

    Raises DataError with what was found and what was expected, also when no path at all fits the layout.
    """
    columns, times = columns or Columns(), times or Times()
    if layout is None:
        return replace(_open(path, columns), times=times)
    parsed = parse_layout(layout)
    columns = replace(columns, label_optional="class" in parsed.fields or columns.label_optional)
    opened = replace(_open(path, columns), layout=parsed, times=times)
    _check_layout(opened, parsed)
    return opened


def _check_layout(opened: Source, layout: Layout) -> None:
    misfit = None
    for row in opened.rows():
        if row.refused is None or row.refused.reason != "bad_path":
            return
        misfit = misfit or row.refused
    if misfit is not None:
        raise DataError(
            f"{opened.path}: none of its paths fits the layout, e.g. {misfit.detail}. A path that fits looks like "
            f"{layout.example()!r}. Give --layout TEMPLATE, or --layout none to use class folders and columns alone"
        )


def _open(path: Path, columns: Columns) -> Source:
    if not path.exists():
        raise DataError(f"{path} does not exist: expected a folder of images or a .csv, .jsonl or .parquet manifest")
    if path.is_dir():
        return _open_folder(path, columns)
    suffix = path.suffix.lower()
    if suffix in ARCHIVE_SUFFIXES:
        raise DataError(f"{path} is an archive: unpack it and name the folder")
    if suffix not in READERS:
        raise DataError(
            f"{path}: {suffix or 'a file without suffix'} is not a manifest: expected a folder of images or "
            f"one of {', '.join(READERS)}"
        )
    _check_columns(path, columns)
    return Source(path, (path,), columns)


def named_paths(manifest: Path, columns: Columns | None = None) -> Iterator[str]:
    """The image paths in `manifest`, unchecked. Images stored inside it have none."""
    for _, roles, record in READERS[manifest.suffix.lower()](manifest, columns or Columns(), True):
        value = record.get(roles.image)
        if isinstance(value, dict):
            value = value.get("path") if value.get("bytes") is None else None
        if isinstance(value, str):
            yield value


def _check_columns(manifest: Path, columns: Columns) -> None:
    next(READERS[manifest.suffix.lower()](manifest, columns, False), None)


def _open_folder(path: Path, columns: Columns) -> Source:
    """A folder is read through the manifest in it whose columns describe images, otherwise as images."""
    manifests = _manifests(path)
    if not manifests and (path / "data").is_dir():  # Hugging Face repositories keep their Parquet there
        manifests = [file for file in _manifests(path / "data") if file.suffix.lower() == ".parquet"]
    fitting, errors = [], []
    for file in manifests:
        try:
            _check_columns(file, columns)
            fitting.append(file)
        except DataError as error:
            errors.append(error)
    named = [file for file in fitting if file.stem == "metadata"]
    if named or len(fitting) == 1 or (fitting and all(file.suffix.lower() == ".parquet" for file in fitting)):
        return Source(path, tuple(named[:1] or fitting), columns)
    if fitting:
        names = ", ".join(file.name for file in fitting[:10])
        raise DataError(f"{path} holds {len(fitting)} manifests ({names}): give the path of one of them")
    if errors and sum(1 for entry in list_entries(path) if entry.is_dir() and _has_images(Path(entry.path))) < 2:
        raise errors[0]  # a manifest next to one folder of images was meant to describe them
    if not _has_images(path):
        raise DataError(_no_images(path))
    contents = read_contents(path)
    if not sum(contents.images.values()):
        raise DataError(_no_images(path))
    return Source(path, (), columns, contents=contents)


def _manifests(path: Path) -> list[Path]:
    files = [Path(entry.path) for entry in list_entries(path) if entry.is_file()]
    return [file for file in files if file.suffix.lower() in READERS]


def _has_images(path: Path) -> bool:
    return any(Path(entry.name).suffix.lower() in IMAGE_SUFFIXES for entry in walk(path))


def _no_images(path: Path) -> str:
    others: dict[str, int] = {}
    for entry in walk(path):
        suffix = Path(entry.name).suffix.lower()
        others[suffix] = others.get(suffix, 0) + 1
    if not others:
        return f"{path} is empty: expected images in class folders, or a manifest"
    found = ", ".join(f"{count} {suffix}" for suffix, count in sorted(others.items())[:10])
    hint = " Unpack archives first." if ARCHIVE_SUFFIXES & others.keys() else ""
    return f"{path} holds no images (found {found}): expected e.g. .jpg or .png files.{hint}"


def _folder_rows(root: Path, contents: Contents) -> Iterator[Offered]:
    by_name = _splits_by_name([SPLIT_WORDS[name.lower()] for name in contents.split_folders()])
    for folder, entries in walk_folders(root, contents.aside_folders):
        if not contents.images[folder]:
            continue
        label, named = contents.place(folder)
        given = by_name[SPLIT_WORDS[named.lower()]] if named else ()
        aside = files_aside([entry.name for entry in entries])
        for entry in entries:
            if entry.name in aside:
                continue
            where = without_surrogates("/".join((*folder, entry.name)))
            row = Offered(where, path=where, label=label, split=given)
            try:
                file = Path(entry.path)
                yield replace(row, image=_follow(root, file) if entry.is_symlink() else file)
            except Unusable as error:
                yield replace(row, refused=error)


def _layout_splits(root: Path, layout: Layout) -> list[str]:
    """The splits that paths under `root` name."""
    found: dict[str, None] = {}
    for entry in walk(root) if "split" in layout.fields else ():
        try:
            found[split(layout.read(without_surrogates(Path(entry.path).relative_to(root).as_posix()))["split"])] = None
        except Unusable:
            continue  # its row is refused
    return [name for name in found if name]


def _placed(row: Offered, layout: Layout, splits: dict[str | None, tuple[str, ...]], times: Times) -> Offered:
    """`row` with what its path says where the row itself says nothing."""
    if row.refused is not None:
        return row
    try:
        values = sample_values(layout.read(row.path or ""))
        values["taken_at"], values["bad_time"] = read_time(values["taken_at"], times)
    except Unusable as error:
        return replace(row, refused=error)
    if values["split"]:
        values["split"] = splits.get(values["split"][0], values["split"])
    slices = dict(values.pop("slices")) | dict(row.slices)
    missing = {name: value for name, value in values.items() if _absent(getattr(row, name))}
    return replace(row, slices=tuple(sorted(slices.items())), **missing)


def _absent(value: Any) -> bool:
    return is_missing(value) or value == ()


def _follow(root: Path, link: Path) -> Path:
    """The file under `root` to which `link` leads. Raises Unusable."""
    if link.is_dir():
        raise Unusable("outside_root", "a linked folder is not followed: ingest its target instead")
    return resolve_inside(root, str(link.relative_to(root)))


def _splits_by_name(names: Sequence[str | None]) -> dict[str | None, tuple[str, ...]]:
    """Name -> allowed splits. If calibration or test is missing, rows of train may also go there."""
    found = {name: (name,) for name in names if name}
    if "train" in found:
        found["train"] = ("train", *(name for name in ("calibration", "test") if name not in found))
    return found


def _split_of_name(file: Path) -> str | None:
    """The split in a Parquet file's name, as Hugging Face writes it: train-00000-of-00001.parquet."""
    word = re.sub(r"-\d{5}-of-\d{5}(-\w+)?$", "", file.stem.lower())
    return SPLIT_WORDS.get(word) if file.suffix.lower() == ".parquet" else None


def _offer(
    where: str, roles: Columns, record: dict[str, Any], root: Path, given: tuple[str, ...], times: Times
) -> Offered:
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
        sampling_probability=value("sampling_probability"),
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
