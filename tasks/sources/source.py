"""Read class folders, CSV, JSON lines or Parquet as one stream of offered rows.

| source                               | label            | split |
|---|---|---|
| folder/<class>/**/image              | the class folder | none |
| folder/{train,val,test}/<class>/...  | the class folder | the folder ("val" is calibration) |
| folder/<class>/{train,val,test}/...  | the class folder | the folder |
| folder of images                     | none             | none |
| .csv .tsv .jsonl .parquet, or a folder that holds one | a column (or a column of 0 and 1 per class) | a column |
| folder/{train,val,test}/ that each hold _classes.csv or metadata.csv | a column | the folder |
| .json of COCO or Label Studio, .xml of CVAT for images | the tool's | none |
| Hugging Face image Parquet, or a folder of it | a column (ClassLabel: its names) | a column or train-*.parquet |

A layout (tasks.sources.layouts) reads label, split and more from the path instead; a manifest's own columns win.

Rows come one at a time, in a fixed order; `Offered.read` reads an image file only when it is needed. An unusable row
gives the reason in `refused`; an unusable source raises DataError. Paths are relative to the manifest's folder and
may not leave it (tasks.sources.safe_files). Nothing is written to a source.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from tasks.common.errors import DataError
from tasks.sources.fields import SPLIT_WORDS
from tasks.sources.folders import IMAGE_SUFFIXES, Contents, read_contents
from tasks.sources.layouts import Layout, parse_layout
from tasks.sources.manifests import IN_FOLDERS, READERS
from tasks.sources.offered import Offered, offer
from tasks.sources.placed import folder_rows, layout_splits, placed, splits_by_name
from tasks.sources.records import Columns
from tasks.sources.safe_files import list_entries, walk
from tasks.sources.times import Times

ARCHIVE_SUFFIXES = {".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar", ".zst"}
PICKLED = "a pickle or array file, which can run code or has no image files: save images and a CSV with path,label"
HINTS = {
    **dict.fromkeys((".tfrecord", ".tfrecords"), "a TFRecord: save its images as files, and a CSV with path,label"),
    **dict.fromkeys((".pkl", ".pickle", ".pt", ".pth", ".npy", ".npz", ".h5", ".hdf5", ".mat"), PICKLED),
    **dict.fromkeys((".xlsx", ".xls", ".ods", ".numbers"), "a spreadsheet: save it as CSV (UTF-8)"),
    **dict.fromkeys((".yaml", ".yml"), "a YAML file (YOLO's data.yaml?): name the folder of images or a manifest"),
}


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
        splits = {} if self.manifests else splits_by_name(layout_splits(self.path, self.layout))
        for row in self._rows(images=True):
            # the layout replaces what a folder's structure means, and fills the gaps of a manifest
            yield placed(row if self.manifests else replace(row, label=None, split=()), self.layout, splits, self.times)

    def _rows(self, images: bool) -> Iterator[Offered]:
        if not self.manifests:
            yield from folder_rows(self.path, self.contents)
            return
        by_name = splits_by_name([_split_of_name(file) for file in self.manifests])
        for file in self.manifests:
            given = by_name.get(_split_of_name(file), ())
            for where, roles, record in READERS[file.suffix.lower()](file, self.columns, images):
                yield offer(where, roles, record, file.parent, given, self.times)


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
    if suffix in HINTS:
        raise DataError(f"{path} is {HINTS[suffix]}")
    if suffix not in READERS:
        raise DataError(
            f"{path}: {suffix or 'a file without suffix'} is not a manifest: expected a folder of images or "
            f"one of {', '.join(READERS)}"
        )
    _check_columns(path, columns)
    return Source(path, (path,), columns)


def _check_columns(manifest: Path, columns: Columns) -> None:
    next(READERS[manifest.suffix.lower()](manifest, columns, False), None)


def _open_folder(path: Path, columns: Columns) -> Source:
    """A folder is read through the manifest in it whose columns describe images, otherwise as images."""
    manifests = _manifests(path)
    if not manifests and (path / "data").is_dir():  # Hugging Face repositories keep their Parquet there
        manifests = [file for file in _manifests(path / "data") if file.suffix.lower() == ".parquet"]
    if not manifests and (split_by_folder := _split_manifests(path)):
        for file in split_by_folder:
            _check_columns(file, columns)
        return Source(path, tuple(split_by_folder), columns)
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
    return [file for file in files if file.suffix.lower() in IN_FOLDERS]


def _split_manifests(path: Path) -> list[Path]:
    """The manifest of each split folder, as Roboflow and Hugging Face's imagefolder write them; [] if one lacks it."""
    folders = [Path(entry.path) for entry in list_entries(path) if entry.is_dir()]
    folders = [folder for folder in folders if folder.name.lower() in SPLIT_WORDS]
    found = [[file for file in _manifests(folder) if file.stem in ("_classes", "metadata")] for folder in folders]
    return [files[0] for files in found] if folders and all(len(files) == 1 for files in found) else []


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
    hint += next((f" {suffix} is {HINTS[suffix]}." for suffix in sorted(others) if suffix in HINTS), "")
    return f"{path} holds no images (found {found}): expected e.g. .jpg or .png files.{hint}"


def _split_of_name(file: Path) -> str | None:
    """The split in a Parquet file's name, as Hugging Face writes it (train-00000-of-00001.parquet), or its folder's."""
    if file.stem in ("_classes", "metadata"):
        return SPLIT_WORDS.get(file.parent.name.lower())
    word = re.sub(r"-\d{5}-of-\d{5}(-\w+)?$", "", file.stem.lower())
    return SPLIT_WORDS.get(word) if file.suffix.lower() == ".parquet" else None
