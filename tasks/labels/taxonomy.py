"""How class names of the past are read today: the changes of the classes, composed into one reading.

    data/annotations/taxonomy/<number>-<id>.json   one change; written once, never edited

A name never gets a second meaning, so every reader maps names alone and needs no versions: labels of years ago, the
classes of an old model, rows of the production log.

Each name stands for a set of *atoms*, the finest units that any name divides the images into. A merge unites sets, a
split divides each atom of a class among the parts. A name reads as a class of today if its atoms lie in that class. If
they lie in several, as after a split, the name is undecided: a person says which. K is the number of classes.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal
from unicodedata import normalize

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, field_validator

from tasks.common.errors import DataError, refuse_newer
from tasks.common.files import content_key
from tasks.common.text import join_names, one_line

SCHEMA_VERSION = 1
FOLDER = Path("annotations/taxonomy")  # under data/

Kind = Literal["rename", "merge", "split", "add", "retire", "group", "undo"]
Label = str | list[str] | None
Atom = tuple[str, ...]  # the class, then the part that each split made of it


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


@dataclass(frozen=True)
class Reading:
    """What a name means today: one class `now`, or one of several (`among`), or none (retired)."""

    now: str | None
    among: tuple[str, ...] = ()


@dataclass
class Taxonomy:
    """The composed changes. A name that no change mentions is a class and reads as itself."""

    meaning: dict[str, frozenset[Atom]] = field(default_factory=dict)  # of every mentioned name
    classes: dict[str, frozenset[Atom]] = field(default_factory=dict)  # the mentioned names that are classes today
    ended: dict[str, Change] = field(default_factory=dict)  # names that are not classes any more, and why
    parents: dict[str, frozenset[Atom]] = field(default_factory=dict)  # groups of classes
    splits: dict[str, Change] = field(default_factory=dict)  # class that was split -> the change, in order
    added: frozenset[Atom] = frozenset()  # what no image had when it was added

    def read(self, name: str) -> Reading:
        """What `name` means today."""
        if (reading := self._known.get(name)) is None:
            reading = self._known[name] = self._read(normalize("NFC", name))
        return reading

    def __post_init__(self) -> None:
        self._known: dict[str, Reading] = {}

    def _read(self, name: str) -> Reading:
        atoms = self.meaning.get(name)
        if atoms is None:
            return Reading(name)
        found = [one for one, own in self.classes.items() if own & atoms]
        if len(found) == 1 and atoms <= self.classes[found[0]]:
            return Reading(found[0])
        return Reading(None, tuple(sorted(found)))

    def rename(self, name: str) -> str:
        """`name` as it is called today; itself if it is undecided or retired."""
        return self.read(name).now or normalize("NFC", name)

    def atoms(self, name: str) -> frozenset[Atom]:
        """The units that `name` stands for."""
        name = normalize("NFC", name)
        return self.meaning.get(name, frozenset([(name,)]))

    def current(self, names: Iterable[str]) -> list[str]:
        """The classes of today that `names` of any time can mean, in the order of first mention."""
        readings = [self.read(name) for name in names]
        return list(dict.fromkeys(one for found in readings for one in ([found.now] if found.now else found.among)))

    def groups(self, classes: Sequence[str]) -> dict[str, list[str]]:
        """Parent -> its children among `classes`, where it has two or more."""
        found = {
            parent: [name for name in classes if self.atoms(name) <= atoms] for parent, atoms in self.parents.items()
        }
        return {parent: children for parent, children in found.items() if len(children) > 1}

    def whole(self, supported: Callable[[str], bool]) -> "Taxonomy":
        """This taxonomy, where a split whose parts are not all `supported` is not in force yet: read as the whole.

        A split whose parts were merged with other classes since cannot be read as the whole any more: it is in force.
        """
        classes = dict(self.classes)
        for name in reversed(self.splits):
            atoms = self.meaning[name]
            parts = [one for one, own in classes.items() if own <= atoms]
            exact = frozenset().union(*(classes[one] for one in parts)) == atoms
            if exact and parts != [name] and not all(supported(one) for one in parts):
                classes = {one: own for one, own in classes.items() if one not in parts} | {name: atoms}
        return replace(self, classes=classes)

    def common(self, *namings: Iterable[str]) -> dict[str, str]:
        """Name -> its class in the finest division that every one of `namings` can express.

        Use it to compare answers that were given in different names. A class is called as today where it is one
        class of today, else as the only name of the first naming that covers it, else by all its names.
        """
        names = list(dict.fromkeys(normalize("NFC", name) for naming in namings for name in naming))
        names = list(dict.fromkeys([*names, *(now for name in names if (now := self.read(name).now))]))
        component: dict[Atom, int] = {}
        members: dict[int, set[Atom]] = {}
        for number, name in enumerate(names):
            joined = {component[atom] for atom in self.atoms(name) if atom in component}
            members[number] = set(self.atoms(name)).union(*(members.pop(other) for other in joined))
            component |= dict.fromkeys(members[number], number)
        titles: dict[int, str] = {}
        for number in members:
            inside = [name for name in names if component[next(iter(self.atoms(name)))] == number]
            today = self.current(inside)
            exact = [name for name in inside if self.atoms(name) == members[number]]
            titles[number] = today[0] if len(today) == 1 else exact[0] if exact else " + ".join(sorted(today or inside))
        return {name: titles[component[next(iter(self.atoms(name)))]] for name in names}


UNCHANGED = Taxonomy()  # every name reads as itself


def compose(changes: Sequence[Change]) -> Taxonomy:
    """Compose `changes`, in their order, without the undone ones. Raises ChangeRefused for one that does not fit."""
    taxonomy, counting = Taxonomy(), in_force(changes)
    needed = {name: change for change in counting for name in change.old}
    by_id = {change.id: change for change in changes}
    for undo in changes:
        undone = by_id.get(undo.undoes)
        if undone is None or undone.kind == "undo" or undone in counting:
            continue
        if names := [name for name in undone.new if name in needed and name not in undone.old]:
            raise ChangeRefused(undo, f"takes away the class {names[0]!r}, which {needed[names[0]]} needs")
    for change in counting:
        _apply(taxonomy, change)
    return taxonomy


def in_force(changes: Sequence[Change]) -> list[Change]:
    """The `changes` that count: neither undone nor an undo. An undo can be undone."""
    undone = set()
    for change in reversed(changes):
        if change.kind == "undo" and change.id not in undone:
            undone.add(change.undoes)
    return [change for change in changes if change.kind != "undo" and change.id not in undone]


def _apply(taxonomy: Taxonomy, change: Change) -> None:
    _check_names(taxonomy, change)
    old = {name: taxonomy.atoms(name) for name in change.old}
    if change.kind == "group":
        (parent,) = change.new
        atoms = frozenset().union(*old.values())
        for other, taken in taxonomy.parents.items():
            if taken & atoms:
                raise ChangeRefused(change, f"names a class that the group {other!r} has already")
        taxonomy.parents[parent] = atoms
        return
    if change.kind == "split":
        (name,) = old
        taxonomy.meaning.setdefault(name, old[name])
        _divide(taxonomy, old[name], change.new)
        parts = {part: frozenset((*atom, part) for atom in old[name]) for part in change.new}
        taxonomy.splits[name] = change
    else:
        atoms = frozenset().union(*old.values()) if old else frozenset([change.new])
        parts = dict.fromkeys(change.new, atoms)
    if change.kind == "add":
        taxonomy.added |= frozenset([change.new])
    for name, atoms in old.items():
        taxonomy.meaning.setdefault(name, atoms)
        taxonomy.classes.pop(name, None)
        taxonomy.ended[name] = change
    for name, atoms in parts.items():
        taxonomy.meaning[name] = taxonomy.classes[name] = atoms
        taxonomy.ended.pop(name, None)


def _divide(taxonomy: Taxonomy, atoms: frozenset[Atom], parts: Sequence[str]) -> None:
    """Replace each of `atoms`, wherever a name has it, by one atom per part."""

    def divided(own: frozenset[Atom]) -> frozenset[Atom]:
        return (own - atoms) | {(*atom, part) for atom in own & atoms for part in parts}

    for names in (taxonomy.meaning, taxonomy.classes, taxonomy.parents):
        for name, own in names.items():
            names[name] = divided(own)
    taxonomy.added = divided(taxonomy.added)


SIZES = {  # kind -> (least old names, most, least new names, most)
    "rename": (1, 1, 1, 1),
    "merge": (2, None, 1, 1),
    "split": (1, 1, 2, None),
    "add": (0, 0, 1, 1),
    "retire": (1, 1, 0, 0),
    "group": (2, None, 1, 1),
}


def _check_names(taxonomy: Taxonomy, change: Change) -> None:
    """Raise ChangeRefused unless the old names are classes at this point and the new ones were never used."""
    low_old, high_old, low_new, high_new = SIZES[change.kind]
    for names, low, high, what in ((change.old, low_old, high_old, "old"), (change.new, low_new, high_new, "new")):
        if len(set(names)) != len(names):
            raise ChangeRefused(change, "names a class twice")
        if len(names) < low or (high is not None and len(names) > high):
            bound = str(low) if low == high else f"{low} or more"
            raise ChangeRefused(change, f"has {len(names)} {what} names, expected {bound}")
    for name in change.old:
        if name in taxonomy.ended:
            raise ChangeRefused(change, f"names {name!r}, which is not a class any more since {taxonomy.ended[name]}")
        if name in taxonomy.parents:
            raise ChangeRefused(change, f"names {name!r}, which is a group of classes")
    for name in change.new:
        if change.kind == "merge" and name in change.old:
            continue
        if name in taxonomy.meaning or name in taxonomy.parents or name in change.old:
            since = f" ({taxonomy.ended[name]})" if name in taxonomy.ended else ""
            raise ChangeRefused(
                change, f"gives the name {name!r}, which has a meaning already{since}: a name keeps one meaning"
            )


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


def read_taxonomy(data: Path, state: str | None = None) -> Taxonomy:
    """The taxonomy of the data set at `data`. state: leave out the changes that were made in this state of the data."""
    changes = read_changes(data)
    if state is not None:
        changes = [change for change in changes if change.state != state]
    return compose(changes)


def label_state(data: Path) -> str:
    """Names the images and labels in `data`: it changes with every batch, not with a change of classes.

    Changes of the present state are *pending*: the network was not trained with them. New images or labels settle them.
    """
    manifests = [file for folder in ("batches", "annotations/batches") for file in (data / folder).glob("*.json")]
    return content_key(sorted(file.relative_to(data).as_posix() for file in manifests))[:16]


def read_column(labels: pa.ChunkedArray, taxonomy: Taxonomy) -> pa.ChunkedArray:
    """`labels` (N,), strings or lists, in the names of today; an undecided or retired name stays as it is."""
    if not taxonomy.meaning or not len(labels):
        return labels
    lists = pa.types.is_list(labels.type)
    whole = labels.combine_chunks()
    names = (whole.flatten() if lists else whole).dictionary_encode()
    today = pa.array([name and taxonomy.rename(name) for name in names.dictionary.to_pylist()], pa.string())
    if today.equals(names.dictionary):
        return labels
    if not lists:
        return pa.chunked_array([today.take(names.indices)])
    read = [label and sorted({taxonomy.rename(name) for name in label}) for label in whole.to_pylist()]
    return pa.chunked_array([pa.array(read, labels.type)])


def read_votes(original: Label, rows: Sequence[dict], taxonomy: Taxonomy) -> tuple[Label, list[dict]]:
    """One sample's original label and the annotations that count, in the names of today.

    Where somebody said which part of a split class it is, all who gave the whole class are read as having said so.
    """
    if not taxonomy.meaning:
        return original, list(rows)
    original, *given = (_read_label(label, taxonomy) for label in (original, *(row["label"] for row in rows)))
    parts: dict[str, list[str]] = {}  # undecided name -> parts that the newest word for one of them names
    in_time = sorted(range(len(rows)), key=lambda row: (rows[row]["at"] is not None, rows[row]["at"]))
    for label in (given[row] for row in in_time):
        for name in {name for other in (original, *given) for name in names_of(other)}:
            if named := set(taxonomy.read(name).among).intersection(names_of(label)):
                parts[name] = sorted(named)
    original, *given = (_with_parts(label, parts) for label in (original, *given))
    return original, [{**row, "label": label} for row, label in zip(rows, given, strict=True)]


def _with_parts(label: Label, parts: Mapping[str, list[str]]) -> Label:
    if isinstance(label, str):
        return parts.get(label, [label])[0]
    return label if label is None else sorted({part for name in label for part in parts.get(name, [name])})


def is_decided(label: Label, taxonomy: Taxonomy) -> bool:
    """Whether no name in `label` waits for a person since a split."""
    return not any(taxonomy.read(name).among for name in names_of(label))


def names_of(label: Label) -> list[str]:
    """The class names of a label: one, any number (multi-label), none for null."""
    return [] if label is None else [label] if isinstance(label, str) else list(label)


def _read_label(label: Label, taxonomy: Taxonomy) -> Label:
    if isinstance(label, str):
        return taxonomy.rename(label)
    return label if label is None else sorted({taxonomy.rename(name) for name in label})


def is_supported(
    name: str, counts: Mapping[str, Mapping[str, int]], taxonomy: Taxonomy, least: Mapping[str, int]
) -> bool:
    """Whether class `name` has enough images in each split, and one in train.

    counts: split -> label -> images; least: split -> images, as validate.min_per_class.
    """
    inside = taxonomy.atoms(name)
    for split, of in counts.items():
        found = sum(count for label, count in of.items() if taxonomy.atoms(label) <= inside)
        if found < max(least.get(split, 0), 1 if split == "train" else 0):
            return False
    return True


def agree(classes: Sequence[str], taxonomy: Taxonomy) -> list[str]:
    """`classes`, as data.classes lists them, in the names of today. Raises DataError where they contradict."""
    stale = {name: taxonomy.ended[name] for name in map(_nfc, classes) if name in taxonomy.ended}
    stale = {name: why for name, why in stale.items() if taxonomy.read(name).now != name}
    if stale:
        name, why = next(iter(stale.items()))
        wanted = ", ".join(map(repr, taxonomy.current(classes)))
        raise DataError(
            f"data.classes lists {name!r}, which is not a class any more since {why}: write data.classes: [{wanted}] "
            "in params.yaml, or take that change back"
        )
    return taxonomy.current(classes)


def _nfc(name: str) -> str:
    return normalize("NFC", name)
