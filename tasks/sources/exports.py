"""Read exports of labelling tools as records: COCO, Label Studio (JSON, JSON-MIN), CVAT for images.

A classifier needs one label, or one set of labels, per image. Boxes and masks of several categories on one image are
not that: such a row is refused, because choosing one would be a guess.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tasks.common.errors import DataError
from tasks.sources.fields import Unusable
from tasks.sources.records import Columns, Record, find_columns
from tasks.sources.tables import open_text

ROLES = Columns(image="image", label="label", annotator="annotator", labelled_at="labelled_at")
LIMIT = 1 << 30  # bytes of an export: it is read as a whole
UPLOADED = re.compile(r"^[0-9a-f]{8}-(?=.)")  # Label Studio puts this before the name of an uploaded file
JSON_FORMS = "a COCO file, an export of Label Studio, or a list of records"


def coco_or_label_studio(file: Path, columns: Columns, images: bool) -> Iterator[Record]:
    """A .json file: COCO, Label Studio's JSON or JSON-MIN, or a list of records with a path and a label each."""
    content = _json(file)
    if isinstance(content, dict) and {"images", "annotations", "categories"} <= content.keys():
        yield from _offered(_coco(content, file), file, columns)
    elif isinstance(content, list) and content and all(isinstance(one, dict) for one in content):
        if any("annotations" in one or "data" in one for one in content):
            yield from _offered(_label_studio(content), file, columns)
        else:
            yield from _records(content, file, columns)
    else:
        raise DataError(f"{file} is not a manifest: expected {JSON_FORMS}. JSON lines have the suffix .jsonl")


def _json(file: Path) -> Any:
    if file.stat().st_size > LIMIT:
        raise DataError(f"{file} has {file.stat().st_size} bytes: give it as JSON lines (.jsonl)")
    text, _ = open_text(file, "JSON")
    with text:
        try:
            return json.load(text)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{file} cannot be read as JSON: {error}. Expected {JSON_FORMS}") from None


def _offered(rows: Iterator[tuple[str, dict[str, Any] | Unusable]], file: Path, columns: Columns) -> Iterator[Record]:
    roles = Columns(**{**vars(ROLES), "label": None if columns.unlabelled else "label"})
    for where, values in rows:
        yield f"{file.name} {where}", roles, values


def _coco(content: dict[str, Any], file: Path) -> Iterator[tuple[str, dict[str, Any] | Unusable]]:
    """One row per image: the categories of its annotations."""
    try:
        names = {one["id"]: str(one["name"]) for one in content["categories"]}
        of: dict[Any, set[str]] = {}
        for one in content["annotations"]:
            of.setdefault(one["image_id"], set()).add(names[one["category_id"]])
        for one in content["images"]:
            found = sorted(of.get(one["id"], ()))
            label = found[0] if len(found) == 1 else found or None
            yield f"image {one['id']}", {"image": one["file_name"], "label": label}
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{file} cannot be read as COCO: {type(error).__name__} {error}") from None


def _label_studio(content: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any] | Unusable]]:
    for number, task in enumerate(content, 1):
        where = f"task {task.get('id', number)}"
        data = task.get("data") if isinstance(task.get("data"), dict) else {}
        path = local_name(next((data[name] for name in ("path", "image", "img") if data.get(name)), None))
        answers = [
            one for one in task.get("annotations") or () if isinstance(one, dict) and not one.get("was_cancelled")
        ]
        for answer in answers or [{}]:
            label = choice(answer.get("result") or [])
            by = answer.get("completed_by")
            by = by.get("email", by.get("id")) if isinstance(by, dict) else by
            values = {"image": path, "label": label, "annotator": None if by is None else f"annotator {by}"}
            values["labelled_at"] = answer.get("updated_at") or answer.get("created_at")
            yield where, label if isinstance(label, Unusable) else values


def choice(results: list[Any]) -> Any:
    """The label among an annotation's results: of the control `label`, or of the only control with choices."""
    found: dict[str, Any] = {}
    for one in results:
        if isinstance(one, dict) and one.get("type") == "choices" and isinstance(one.get("value"), dict):
            found.setdefault(str(one.get("from_name")), one["value"].get("choices"))
    if "label" in found or len(found) == 1:
        chosen = found.get("label", next(iter(found.values())))
        return chosen[0] if isinstance(chosen, list) and len(chosen) == 1 else chosen
    if found:
        controls = ", ".join(map(repr, sorted(found)))[:200]
        return Unusable("bad_label", f"answers to several questions ({controls}), and none is called 'label'")
    return None


def local_name(written: Any) -> Any:
    """The path of an image that a labelling server names by its own address; anything else as it is."""
    if not isinstance(written, str) or not written.startswith("/data/"):
        return written
    parts = urlsplit(written)
    if parts.path.startswith("/data/local-files") and (named := parse_qs(parts.query).get("d")):
        return named[0].lstrip("/")
    return UPLOADED.sub("", unquote(parts.path).rpartition("/")[2])


def _records(content: list[dict[str, Any]], file: Path, columns: Columns) -> Iterator[Record]:
    """A JSON list of flat records, such as JSON-MIN."""
    names = dict.fromkeys(name for one in content for name in one)
    if "choice" in names and "image" in names and columns.label is None:  # JSON-MIN's usual name
        columns = Columns(**{**vars(columns), "label": "choice"})
    roles = find_columns(list(names), columns, str(file))
    for number, record in enumerate(content, 1):
        label = record.get(roles.label) if roles.label else None
        if isinstance(label, dict) and "choices" in label:
            record = {**record, roles.label: label["choices"]}
        yield f"{file.name} record {number}", roles, {**record, roles.image: local_name(record.get(roles.image))}


def cvat_records(file: Path, columns: Columns, images: bool) -> Iterator[Record]:
    """CVAT for images 1.1: the tags of each image."""
    from xml.parsers import expat

    found: list[tuple[str, list[str]]] = []
    shapes: set[str] = set()
    root: list[str] = []

    def start(name: str, about: dict[str, str]) -> None:
        root.append(name)
        if name == "image":
            found.append((about.get("name", ""), []))
        elif name == "tag" and found:
            found[-1][1].append(about.get("label", ""))
        elif found and name in ("box", "polygon", "polyline", "points", "mask", "cuboid"):
            shapes.add(name)

    def refuse(*_: Any) -> None:
        raise DataError(f"{file} declares entities, which an export does not need: it is not read")

    parser = expat.ParserCreate()
    parser.StartElementHandler, parser.EntityDeclHandler = start, refuse
    try:
        with open(file, "rb") as content:
            parser.ParseFile(content)
    except (expat.ExpatError, OSError) as error:
        raise DataError(f"{file} cannot be read as XML: {error}") from None
    if not root or root[0] != "annotations":
        raise DataError(f"{file} is not a manifest: of XML, only CVAT for images is read (its root is <annotations>)")
    if not any(tags for _, tags in found):
        seen = f"only {', '.join(sorted(shapes))}" if shapes else "no tag"
        raise DataError(f"{file} has {seen}: expected a tag per image, which CVAT writes for image labels")
    rows = (
        (f"image {name[:80]}", {"image": name, "label": tags[0] if len(tags) == 1 else tags or None})
        for name, tags in found
    )
    yield from _offered(iter(rows), file, columns)
