"""What each class means, in words and by reference images: kept beside the annotations, append-only.

    data/annotations/definitions/<number>-<hash>.json   one edit of one class; written once

The newest edit of a class counts. No stage reads them: they are for the people who label.
"""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from tasks.common.errors import DataError, refuse_newer
from tasks.common.files import content_key, read_json, write_json

SCHEMA_VERSION = 1
FOLDER = Path("annotations/definitions")  # under data/
IMAGES = 3  # reference images of a class
TEXT = 2000  # characters of a definition


class Definition(BaseModel):
    """One edit of what a class means."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: int = SCHEMA_VERSION
    number: int  # its place in the list; two branches may give the same one
    name: str  # of the class, as it was called then
    text: str
    images: tuple[str, ...]  # ids of samples
    at: str  # UTC, ISO 8601
    by: str


def history(data: Path) -> list[Definition]:
    """All edits, oldest first. Raises DataError for a file that cannot be read."""
    found = []
    for file in (data / FOLDER).glob("*.json"):
        content = read_json(file)
        refuse_newer(content.get("version"), SCHEMA_VERSION, str(file))
        try:
            found.append(Definition.model_validate(content))
        except ValidationError as error:
            raise DataError(f"{file} is not a definition of a class: {error}") from None
    return sorted(found, key=lambda one: (one.number, one.at, content_key(one.model_dump())))


def newest(data: Path) -> dict[str, Definition]:
    """Class -> its newest edit."""
    return {one.name: one for one in history(data)}


def write_definition(data: Path, name: str, text: str, images: tuple[str, ...], at: str, by: str) -> Definition:
    """Add an edit. The caller holds the lock of data/."""
    number = max((one.number for one in history(data)), default=0) + 1
    made = Definition(number=number, name=name, text=text, images=images, at=at, by=by)
    content = made.model_dump(mode="json")
    write_json(data / FOLDER / f"{number:06d}-{content_key(content)[:12]}.json", content)
    return made
