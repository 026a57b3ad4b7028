"""How class names of the past are read today: the changes of the classes, composed into one reading.

A name never gets a second meaning, so every reader maps names alone and needs no versions: labels of years ago, the
classes of an old model, rows of the production log.

Each name stands for a set of *atoms*, the finest units that any name divides the images into. A merge unites sets, a
split divides each atom of a class among the parts. A name reads as a class of today if its atoms lie in that class. If
they lie in several, as after a split, the name is undecided: a person says which. K is the number of classes.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from unicodedata import normalize

from tasks.common.errors import DataError
from tasks.labels.changes import Change, ChangeRefused, in_force, read_changes

Atom = tuple[str, ...]  # the class, then the part that each split made of it


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


def read_taxonomy(data: Path, state: str | None = None) -> Taxonomy:
    """The taxonomy of the data set at `data`. state: leave out the changes that were made in this state of the data."""
    changes = read_changes(data)
    if state is not None:
        changes = [change for change in changes if change.state != state]
    return compose(changes)


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
