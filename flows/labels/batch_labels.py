"""Correct a whole batch's labels at once, as a reviewer: rename, swap or leave out a class.

A labelling job that mixed up two folders gives hundreds of wrong labels of one kind. Each image gets its own word of
the reviewer, so `evergreen why`, `undo` and the label revision treat them as any other correction.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flows.labels.journal import Answer
from flows.labels.take import Taken, take
from flows.project.ingest import restored_data
from tasks.common.errors import EvergreenError
from tasks.common.params import load_params
from tasks.common.person import person
from tasks.common.text import join_names
from tasks.dataset.shards import batches, read_tombstones
from tasks.labels.effective import effective_samples
from tasks.labels.reading import names_of
from tasks.labels.taxonomy import read_taxonomy

Label = str | list[str]


@dataclass(frozen=True)
class BatchFix:
    """What would change in a batch: id -> new label, None to leave the image out."""

    batch: str
    changes: dict[str, Label | None]
    splits: Counter  # split -> changed images
    classes: tuple[Counter, Counter]  # class -> labelled images of the batch, before and after

    def lines(self) -> list[str]:
        """What will happen, for the terminal and the page."""
        count = len(self.changes)
        where = join_names([f"{number:,} {split}" for split, number in sorted(self.splits.items())])
        before, after = self.classes
        moved = [f"{name!r} {before[name]:,} -> {after[name]:,}" for name in sorted({*before, *after})]
        changed = [
            line for line, name in zip(moved, sorted({*before, *after}), strict=True) if before[name] != after[name]
        ]
        found = [f"{count:,} of the batch's images get another label ({where or 'none'})"]
        return found + ([f"labelled images of the batch: {'; '.join(changed)}"] if changed else [])


def plan_fix(
    root: Path, batch: str, given: str, right: str | None, *, swap: bool = False, known: Sequence[str] | None = None
) -> BatchFix:
    """What it would change if the images of `batch` labelled `given` were `right` (None: left out), and vice versa.

    swap: those labelled `right` become `given` too. known: the classes that `right` may be. Raises EvergreenError.
    """
    restored_data(root)
    data = root / "data"
    manifest = next((one for one in batches(data) if one.batch == batch), None)
    if manifest is None:
        raise EvergreenError(f"no batch {batch!r} of images in {data}: /data and `evergreen status` name them")
    if given == right:
        raise EvergreenError(f"{given!r} is what these images are labelled now: name another class, or leave them out")
    if swap and right is None:
        raise EvergreenError("two classes are needed to swap their labels")
    if known is not None and right is not None and right not in known:
        raise EvergreenError(f"{right!r} is not a class: there are {join_names(map(repr, known), 20)}")
    params, stones = load_params(root / "params.yaml"), set(read_tombstones(root)) - {batch}
    samples = effective_samples(data, read_taxonomy(data), stones, params.labels.consensus)
    to = {given: right} | ({right: given} if swap else {})
    changes, splits, before, after = {}, Counter(), Counter(), Counter()
    for row in samples.select(["id", "label", "split", "shard"]).to_pylist():
        if row["shard"] not in manifest.shards or row["label"] is None:
            continue
        names = names_of(row["label"])
        before.update(names)
        if to.keys().isdisjoint(names):
            after.update(names)
            continue
        leaves = any(to.get(name, name) is None for name in names)
        new = list(dict.fromkeys(to.get(name, name) for name in names))
        changes[row["id"]] = None if leaves else new[0] if isinstance(row["label"], str) else sorted(new)
        splits[row["split"]] += 1
        after.update(() if leaves else new)
    if not changes:
        listed = join_names([f"{name!r} ({count:,})" for name, count in sorted(before.items())], 20) or "none"
        raise EvergreenError(f"no image of {batch} is labelled {given!r}: its classes are {listed}")
    return BatchFix(batch, changes, splits, (before, after))


def take_fix(root: Path, fix: BatchFix, why: str, commit: bool = True) -> Taken:
    """Give every image of the plan its new label, or leave it out: one batch of words, one commit."""
    by, why = person(root), why.strip()
    if not why:
        raise EvergreenError("a reason is missing: say why, for the people who read this later")
    answers = [
        Answer(image, label, exclude=label is None, annotator=by, role="reviewer", why=why)
        for image, label in fix.changes.items()
    ]
    return take(root, answers, commit=commit, why=f"fix labels of {fix.batch}")
