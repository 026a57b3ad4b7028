"""Counts of a batch's images, and of all images, by class and split."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from flows.console.index.columns import Columns
from flows.console.index.facets import IN_USE, label_text


@dataclass(frozen=True)
class Counts:
    """How many images of one batch have each value."""

    classes: dict[str, int] = field(default_factory=dict)  # most first
    splits: dict[str, int] = field(default_factory=dict)
    sources: dict[str, int] = field(default_factory=dict)


def counts_of(columns: Columns, multilabel: bool = False) -> dict[str, Counts]:
    """Batch -> how many of its images have each label that counts, each split and each source.

    multilabel: an image with several labels counts for each of them.
    """
    names = columns.names["batch"]
    codes = columns.codes["batch"]
    rows = codes > 0
    found: dict[str, dict[str, dict[str, int]]] = {name: {} for name in names if name is not None}
    for facet, about in (("true", "classes"), ("split", "splits"), ("source", "sources")):
        values = columns.names[facet]
        width = len(values)
        both = np.bincount(codes[rows].astype(np.int64) * width + columns.codes[facet][rows], minlength=0)
        for cell in np.argsort(-both, kind="stable")[: np.count_nonzero(both)].tolist():
            batch, value = names[cell // width], values[cell % width]
            if batch is not None and value is not None:
                found[batch].setdefault(about, {})[value] = int(both[cell])
    if multilabel:
        found = {batch: about | {"classes": _each(about.get("classes", {}))} for batch, about in found.items()}
    return {batch: Counts(**about) for batch, about in found.items()}


def single_names(label: str) -> list[str]:
    """The classes of the label of a multi-label image, as the index writes it (flows.console.index.facets)."""
    return [] if label == label_text([]) else label.split(" + ")


def _each(counts: Mapping[str, int]) -> dict[str, int]:
    found: Counter[str] = Counter()
    for label, count in counts.items():
        for name in single_names(label):
            found[name] += count
    return dict(found.most_common())


def totals_of(
    columns: Columns, splits: Sequence[str], without: Collection[str] = (), multilabel: bool = False
) -> list[tuple[str, dict[str, int]]]:
    """(class, split -> images) of everything in use, the most frequent class first. without: tombstoned batches."""
    states, known = columns.names["state"], columns.names["batch"]
    use = np.isin(columns.codes["state"], [code for code, name in enumerate(states) if name == IN_USE])
    use &= ~np.isin(columns.codes["batch"], [code for code, name in enumerate(known) if name in without])
    use &= columns.codes["batch"] > 0  # of data/, not of the production log
    values, width = columns.names["true"], len(columns.names["split"])
    rows = use & (columns.codes["true"] > 0)
    both = np.bincount(columns.codes["true"][rows].astype(np.int64) * width + columns.codes["split"][rows])
    both = np.pad(both, (0, len(values) * width - len(both))).reshape(len(values), width)
    place = {name: code for code, name in enumerate(columns.names["split"])}
    order = [code for code in np.argsort(-both.sum(axis=1), kind="stable").tolist() if both[code].any()]
    found = [
        (values[code], {split: int(both[code, place[split]]) if split in place else 0 for split in splits})
        for code in order
    ]
    if not multilabel:
        return found
    named = {split: _each({label: counts[split] for label, counts in found}) for split in splits}
    names = _each({label: sum(counts.values()) for label, counts in found})
    return [(name, {split: named[split].get(name, 0) for split in splits}) for name in names]
