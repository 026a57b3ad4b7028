"""What `evergreen classes` lists: the classes of today, their images, and what they wait for."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from flows.labels.define import meanings
from flows.project.ingest import restored_data
from tasks.common.params import load_params
from tasks.common.text import join_names
from tasks.dataset.shards import read_tombstones
from tasks.labels.changes import Change, read_changes
from tasks.labels.effective import effective_samples
from tasks.labels.reading import is_supported, names_of
from tasks.labels.taxonomy import compose


@dataclass(frozen=True)
class ClassRow:
    """One class of today, or a name that is not one any more."""

    name: str
    images: dict[str, int]  # split -> labelled samples
    parent: str | None
    note: str  # why it is not a class, or what it waits for
    meaning: str = ""  # its definition


def class_rows(root: Path) -> tuple[list[ClassRow], list[Change]]:
    """(every class with its labelled samples, the changes in force and not, in order)."""
    restored_data(root)
    params = load_params(root / "params.yaml")
    least = params.validate_.min_per_class
    changes = read_changes(root / "data")
    taxonomy = compose(changes)
    pairs = class_splits(effective_samples(root / "data", taxonomy, read_tombstones(root), params.labels.consensus))
    by_split = {split: Counter(name for name, where in pairs if where == split) for split in least}
    whole = taxonomy.whole(lambda name: is_supported(name, by_split, taxonomy, least))
    counts: dict[str, Counter] = {}
    for name, split in pairs:
        counts.setdefault(whole.rename(name), Counter())[split] += 1
    names = [*counts, *(name for name in whole.classes if name not in counts)]
    parents = {child: parent for parent, children in whole.groups(names).items() for child in children}
    rows, defined = [], meanings(root / "data")
    for name in sorted(names):
        reading, note = whole.read(name), ""
        if reading.now is None:
            note = f"one of {join_names(reading.among)}: undecided" if reading.among else "retired"
        elif name in taxonomy.splits:
            note = f"split into {join_names(taxonomy.read(name).among)}: stays whole"
        elif name not in counts:
            note = "no image is labelled with it yet"
        meaning = defined[name].text if name in defined else ""
        rows.append(ClassRow(name, dict(counts.get(name, {})), parents.get(name), note, meaning))
    return rows, changes


def class_splits(samples: pa.Table) -> list[tuple[str, str]]:
    """(class name, split) of every label of `samples`."""
    rows = zip(samples["label"].to_pylist(), samples["split"].to_pylist(), strict=True)
    return [(name, split) for given, split in rows for name in names_of(given)]
