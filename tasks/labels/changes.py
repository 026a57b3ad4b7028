"""The changes of the classes, as files of the data set, and which of them count.

data/annotations/taxonomy/<number>-<id>.json   one change; written once, never edited
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal
from unicodedata import normalize

from pydantic import BaseModel, ConfigDict, field_validator

from tasks.common.errors import DataError, refuse_newer
from tasks.common.files import content_key
from tasks.common.text import join_names, one_line

SCHEMA_VERSION = 1
FOLDER = Path("annotations/taxonomy")  # under data/
Kind = Literal["rename", "merge", "split", "add", "retire", "group", "undo"]


class Change(BaseModel):
    """One change of the classes, as it is stored."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int  # its place in the list; two branches may give the same one
    kind: Kind
    old: tuple[str, ...] = ()  # class names before
    new: tuple[str, ...] = ()  # class names after; of "group": the parent
    undoes: str | None = None  # of "undo": the id of a change
    at: str  # UTC, ISO 8601
    by: str
    why: str
    state: str  # of the data when it was made: see `label_state`
    listed: tuple[str, ...] | None = None  # data.classes of params.yaml before it; None: it lists none

    @field_validator("old", "new")
    @classmethod
    def _composed(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(normalize("NFC", name) for name in names)

    @property
    def id(self) -> str:
        return content_key(self.model_dump(mode="json"))[:12]

    def what(self) -> str:
        """The change as a phrase."""
        old, new = join_names(map(repr, self.old), 9), join_names(map(repr, self.new), 9)
        return {
            "rename": f"{old} renamed to {new}",
            "merge": f"{old} merged into {new}",
            "split": f"{old} split into {new}",
            "add": f"{new} added",
            "retire": f"{old} retired",
            "group": f"{old} grouped as {new}",
            "undo": f"{self.undoes} undone",
        }[self.kind]

    def __str__(self) -> str:
        return f"change {self.id} ({self.what()}; {one_line(self.by)}, {self.at[:10]})"


class ChangeRefused(DataError):
    """A change that does not fit those before it; `change` is the later one."""

    def __init__(self, change: Change, reason: str):
        self.change = change
        super().__init__(
            f"{change} {reason}. Take one of the two back: `evergreen classes undo {change.id}` does it for this one"
        )


def in_force(changes: Sequence[Change]) -> list[Change]:
    """The `changes` that count: neither undone nor an undo. An undo can be undone."""
    undone = set()
    for change in reversed(changes):
        if change.kind == "undo" and change.id not in undone:
            undone.add(change.undoes)
    return [change for change in changes if change.kind != "undo" and change.id not in undone]


def read_changes(data: Path) -> list[Change]:
    """All changes under `data`, in order. Raises DataError for a file that is not one."""
    return sort_changes(parse_change(file.read_bytes(), str(file)) for file in (data / FOLDER).glob("*.json"))


def parse_change(content: bytes, where: str) -> Change:
    """The change in the file `where`. Raises DataError if it is not one, EvergreenError if it is of a newer format."""
    try:
        about = json.loads(content)
        refuse_newer(about.pop("schema", None), SCHEMA_VERSION, where)
        return Change.model_validate(about)
    except (ValueError, AttributeError, TypeError) as error:
        raise DataError(f"{where} is not a change of classes ({error}): restore it with `dvc checkout`") from None


def sort_changes(changes: Iterable[Change]) -> list[Change]:
    """`changes` in the order in which they are composed, which no merge of branches changes."""
    return sorted(changes, key=lambda change: (change.number, change.at, change.id))


def label_state(data: Path) -> str:
    """Names the images and labels in `data`: it changes with every batch, not with a change of classes.

    Changes of the present state are *pending*: the network was not trained with them. New images or labels settle them.
    """
    manifests = [file for folder in ("batches", "annotations/batches") for file in (data / folder).glob("*.json")]
    return content_key(sorted(file.relative_to(data).as_posix() for file in manifests))[:16]
