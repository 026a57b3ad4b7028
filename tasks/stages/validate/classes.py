"""Which classes there are, as the network knows them and as they are today.

Changes of classes that no new image or label has settled yet are *pending*: the stages up to train_backbone read the
labels without them (artifacts/validate/network/), the head and all later stages with them. N is the number of samples.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from tasks.common.params import ValidateParams
from tasks.common.text import join_names
from tasks.labels.agreed import Method
from tasks.labels.annotations import Decision
from tasks.labels.changes import label_state, read_changes
from tasks.labels.reading import is_supported, read_column
from tasks.labels.taxonomy import Taxonomy, agree, compose
from tasks.stages.validate import people, rules
from tasks.stages.validate.table import SampleTable, labels_of


@dataclass(frozen=True)
class View:
    """The samples under one reading of the class names."""

    taxonomy: Taxonomy  # a split whose parts have too few images is not in force
    table: SampleTable
    said: dict[int, Decision]
    listed: list[str] | None  # data.classes under this reading


def views(
    root: Path, samples: pa.Table, listed: list[str] | None, validate: ValidateParams, method: Method
) -> tuple[View, View, list[str]]:
    """(as the network knows the classes, as they are today, ids of all changes). The first is the second if none is
    pending. listed: data.classes. method: how annotators who differ are settled. Raises DataError where they
    contradict the taxonomy."""
    changes, state = read_changes(root / "data"), label_state(root / "data")
    pending = [change for change in changes if change.state == state]
    today = view(root, samples, listed, compose(changes), validate, method)
    ids = [change.id for change in changes]
    if not pending:
        return today, today, ids
    before = pending[0].listed
    settled = compose([change for change in changes if change.state != state])
    return view(root, samples, None if before is None else list(before), settled, validate, method), today, ids


def view(
    root: Path,
    samples: pa.Table,
    listed: list[str] | None,
    taxonomy: Taxonomy,
    validate: ValidateParams,
    method: Method,
) -> View:
    """The samples with their effective labels in the names of `taxonomy`."""
    said = people.decisions(root, samples, taxonomy, method)
    labelled = people.with_decisions(samples, said, taxonomy)
    if not taxonomy.meaning:
        return View(taxonomy, SampleTable(labelled), said, listed)
    table = SampleTable(labelled)
    counts = {split: table.counts(table.fine & (table.split == split)) for split in rules.SPLITS}

    def supported(name: str) -> bool:
        return is_supported(name, counts, taxonomy, validate.min_per_class)

    whole = taxonomy.whole(supported)
    place = labelled.column_names.index("label")
    table = SampleTable(labelled.set_column(place, "label", read_column(labelled["label"], whole)))
    if listed is not None:
        new = {name for name in whole.classes if whole.atoms(name) <= whole.added and not supported(name)}
        listed = [name for name in agree(listed, whole) if name not in new]
    return View(whole, table, said, listed)


def choose_classes(seen: View, validate: ValidateParams) -> tuple[list[str], Counter[str]]:
    """The class names, and how many samples have each other label. These are left out; no batch is refused for it."""
    table, given = seen.table, seen.listed
    train = table.counts(table.training)
    least = max(validate.min_per_class.get("train", 0), 1)
    ended = {name for name in train if seen.taxonomy.read(name).now is None}
    classes = rules.class_names({name: train[name] for name in train if name not in ended}, given, least)
    known, left_out = set(classes), Counter()
    for row in np.flatnonzero(table.fine & table.labelled):
        unlisted = set(labels_of(table.labels[row])) - known
        for name in sorted(unlisted):
            reading = seen.taxonomy.read(name)
            why = f"is not among the {len(known)} of data.classes"
            if reading.among:
                why = f"was split: a person has to say which of {join_names(reading.among)} it is"
            elif reading.now is None:
                why = "was retired"
            elif given is None:
                why = f"has {train[name]} labelled training images, at least {least} make a class"
            left_out[name] += 1
            table.leave_out(row, unlisted, f"label {name!r} {why}", whole=bool(reading.among))
    return classes, left_out


def class_mapping(network: View, today: View, trained: list[str], classes: list[str]) -> dict:
    """taxonomy.json: {names: class of the network -> class of today or None, groups: parent -> children}."""
    now = {name: today.taxonomy.read(name).now for name in trained}
    return {
        "names": {name: one if one in classes else None for name, one in now.items()},
        "groups": today.taxonomy.groups(classes),
    }
