"""Class names in the files of exports, in the model's order as far as the file gives one."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tasks.common.errors import DataError, EvergreenError
from tasks.common.files import parse_yaml, read_json
from tasks.sources.exports import choice
from tasks.sources.tables import open_text

SORTED = "its classes are taken in alphabetical order, for the export does not say the model's"


def classes_in(folder: Path) -> tuple[list[str], str | None] | None:
    """(class names, a note if the order is a guess) of the first file in `folder` that has some; None: no file has."""
    for kind, read in READERS.items():
        for file in sorted(folder.glob(kind), key=lambda one: (len(one.parts), one.name)):
            if found := read(file):
                return found
    return None


def _lines(file: Path) -> tuple[list[str], None] | None:
    with open_text(file, "a list of classes")[0] as content:
        names = [name for line in content if (name := line.strip())]
    return (names, None) if names else None


def _notes(file: Path) -> tuple[list[str], None] | None:
    """notes.json, as Label Studio writes it beside a YOLO or COCO export."""
    found = _json(file)
    rows = found.get("categories") if isinstance(found, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, dict) and isinstance(row.get("id"), int) for row in rows):
        return None
    return [str(row.get("name")) for row in sorted(rows, key=lambda row: row["id"])], None


def _one_hot(file: Path) -> tuple[list[str], None] | None:
    """The header of Roboflow's _classes.csv: filename, then a column per class."""
    with open_text(file, "a list of classes")[0] as content:
        names = [cell.strip().strip('"') for cell in content.readline().split(",")]
    return (names[1:], None) if names[0].lower() in ("filename", "image") and len(names) > 2 else None


def _data_yaml(file: Path) -> tuple[list[str], None] | None:
    """`names` of data.yaml: a list, or {number: name}."""
    import yaml

    try:
        found = parse_yaml(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, OSError, ValueError) as error:
        raise EvergreenError(f"{file} cannot be read as YAML: {str(error).splitlines()[0]}") from None
    names = found.get("names") if isinstance(found, dict) else None
    if isinstance(names, dict):
        names = [name for _, name in sorted(names.items(), key=lambda pair: int(pair[0]))]
    return ([str(name) for name in names], None) if isinstance(names, list) and names else None


def _labelling_interface(file: Path) -> tuple[list[str], None] | None:
    """The values of <Choice> or <Label> in Label Studio's labelling interface."""
    from xml.parsers import expat

    names: list[str] = []

    def start(name: str, about: dict[str, str]) -> None:
        if name in ("Choice", "Label") and "value" in about:
            names.append(about["value"])

    def refuse(*_: Any) -> None:
        raise DataError(f"{file} declares entities, which a labelling interface does not need: it is not read")

    parser = expat.ParserCreate()
    parser.StartElementHandler, parser.EntityDeclHandler = start, refuse
    try:
        with open(file, "rb") as content:
            parser.ParseFile(content)
    except (expat.ExpatError, OSError):
        return None  # another kind of file
    return (names, None) if names else None


def _annotations(file: Path) -> tuple[list[str], str] | None:
    """The labels that were given in Label Studio's JSON or JSON-MIN."""
    found = _json(file)
    rows = [row for row in found if isinstance(row, dict)] if isinstance(found, list) else []
    names = {name for row in rows for name in _given(row) if isinstance(name, str)}
    return (sorted(names), SORTED) if names else None


def _given(row: dict[str, Any]) -> Iterator[Any]:
    for annotation in row.get("annotations") or []:
        if isinstance(annotation, dict) and not annotation.get("was_cancelled"):
            given = choice(annotation.get("result") or [])
            yield from given if isinstance(given, list) else [given]
    if isinstance(given := row.get("choice"), (str, list)):
        yield from given if isinstance(given, list) else [given]


def _class_folders(file: Path) -> tuple[list[str], None] | None:
    """train/<class>/: trainers number the folders in alphabetical order."""
    names = sorted(one.name for one in file.iterdir() if one.is_dir()) if file.is_dir() else []
    return (names, None) if len(names) > 1 and not re.fullmatch("images|labels", names[0]) else None


def _json(file: Path) -> Any:
    try:
        return read_json(file)
    except (OSError, ValueError) as error:
        raise EvergreenError(f"{file} cannot be read as JSON: {error}") from None


READERS: dict[str, Callable[[Path], tuple[list[str], str | None] | None]] = {  # glob -> reader, best first
    "**/labels.txt": _lines,
    "**/classes.txt": _lines,
    "**/notes.json": _notes,
    "**/_classes.csv": _one_hot,
    "**/data.yaml": _data_yaml,
    "*.xml": _labelling_interface,
    "train": _class_folders,
    "*.json": _annotations,
}
