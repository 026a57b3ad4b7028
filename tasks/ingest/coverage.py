"""What the groups do not allow: classes without a row in some split, shares far from the asked.

Said by `evergreen init` before there are splits (`preview`), and by `evergreen ingest` about those that it decided.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from tasks.common.sections.data import SplitFractions
from tasks.ingest.splits import GROWING, Lookalikes, NewRow, RecordedSplits, assign_splits

FAR = 0.1  # a share that is off by more is said
SHOWN = 3  # classes; the terminal shows 240 characters of a line
PREVIEWED = 200_000  # rows


def coverage_notes(
    rows: Mapping[str, int],
    classes: Mapping[tuple[str, str | None], int],
    groups: Mapping[str, int],
    fractions: SplitFractions,
) -> list[str]:
    """Sentences about what is missing. rows: by split; classes: by (split, class); groups: of each class."""
    wanted = [split for split in GROWING if getattr(fractions, split) > 0]
    names = sorted({name for _, name in classes if name is not None})
    lacking = {name: [split for split in wanted if not classes.get((split, name))] for name in names}
    lacking = {name: splits for name, splits in lacking.items() if splits}
    total = sum(rows.get(split, 0) for split in GROWING)
    shares = {split: rows.get(split, 0) / max(total, 1) for split in wanted}
    notes = []
    if far := [split for split in wanted if abs(shares[split] - getattr(fractions, split)) > FAR] if total else []:
        found = ", ".join(f"{split} {shares[split]:.0%} (asked {getattr(fractions, split):.0%})" for split in far)
        notes.append(f"note: of {total} rows, {found}: groups and recorded rows are never divided")
    if empty := [split for split in wanted if total and not rows.get(split)]:
        notes.append(
            f"note: the groups leave no image for {' and '.join(empty)}, and `retrain` needs some there: bring images "
            f"of at least {len(wanted)} groups, or name a finer group column (--group) and this one as --source"
        )
    if lacking:
        order = sorted(lacking, key=lambda name: (groups.get(name, 0), name))
        listed = "; ".join(
            f"{name!r} ({_groups(groups.get(name, 0))}) not in {' and '.join(lacking[name])}" for name in order[:SHOWN]
        )
        more = f"; and {len(order) - SHOWN} more" if len(order) > SHOWN else ""
        notes.append(f"note: {len(order)} of {len(names)} classes do not reach every split: {listed}{more}")
        notes.append(
            f"  each split needs an image or group of its own: bring {len(wanted)} of each class. Until then "
            "`evaluate` also cross-validates a classifier by group"
        )
    return notes


def _groups(count: int) -> str:
    return "1 image or group" if count == 1 else f"{count} images or groups"


def preview(rows: Sequence[tuple[str | None, str | None, tuple[str, ...]]], fractions: SplitFractions) -> list[str]:
    """`coverage_notes` of N rows (group, source, classes) that are in no split yet, as far as groups decide it."""
    if len(rows) > PREVIEWED:
        return []
    new = [NewRow(f"{n:064x}", (), group, source, labels) for n, (group, source, labels) in enumerate(rows)]
    alike = Lookalikes(np.arange(len(new)), np.empty((0, 2), int), {})
    splits = assign_splits(new, RecordedSplits(), alike, seed=0, fractions=fractions)
    counts = {split: splits.count(split) for split in GROWING}
    classes: dict[tuple[str, str | None], int] = {}
    for row, split in zip(new, splits, strict=True):
        for name in row.labels:
            classes[split, name] = classes.get((split, name), 0) + 1
    groups = groups_of_classes((row.group or row.id, row.labels) for row in new)
    return coverage_notes(counts, classes, groups, fractions)


def groups_of_classes(rows: Iterable[tuple[str, tuple[str, ...]]]) -> dict[str, int]:
    """How many groups each class has; rows: (group or id, classes) of each row."""
    found: dict[str, set[str]] = {}
    for group, labels in rows:
        for name in labels:
            found.setdefault(name, set()).add(group)
    return {name: len(groups) for name, groups in found.items()}
