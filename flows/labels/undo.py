"""Take back what people said: a whole batch of corrections, or the newest word about one sample."""

from collections import defaultdict
from collections.abc import Collection
from pathlib import Path

import pyarrow.compute as pc

from flows.labels.journal import Answer
from flows.labels.take import Taken, take
from tasks.common.errors import EvergreenError
from tasks.common.person import person
from tasks.dataset.shards import known_batches, read_tombstones
from tasks.labels.annotations import annotation_key, by_sample, read_annotations, retracted_keys, standing


def undo_batch(root: Path, batch: str, why: str, commit: bool = True) -> Taken:
    """Retract every annotation of `batch`; if the batch was an undo, the annotations that it took back count again.

    Raises EvergreenError for a batch without annotations, or one that was undone before.
    """
    data = root / "data"
    if batch not in known_batches(data):
        raise EvergreenError(f"no batch {batch!r} in {data}: `evergreen why ID` names the batches of a sample")
    table = read_annotations(data)
    of = by_sample(table.filter(pc.is_in(table["id"], table.filter(pc.equal(table["batch"], batch))["id"])))
    mine: set[tuple[str, str]] = set()  # (id, key) of what this batch says
    undone: dict[str, set[tuple[str, str]]] = defaultdict(set)  # other batch -> what its retractions take back
    for image, rows in of.items():
        gone = retracted_keys(rows)
        mine |= {(image, annotation_key(row)) for row in rows if row["batch"] == batch}
        for row in rows:
            if row["retracts"] and annotation_key(row) not in gone:
                undone[row["batch"]].add((image, row["retracts"]))
    if not mine or any(mine <= taken for taken in undone.values()):
        raise EvergreenError(f"batch {batch} says nothing about labels, or was undone before")
    return take(root, [_retraction(root, *one, why) for one in sorted(mine)], commit=commit, why=f"undo {batch}")


def batch_images(root: Path, batch: str) -> list[str]:
    """Ids of the samples that `batch` says something about."""
    table = read_annotations(root / "data")
    return sorted(set(table.filter(pc.equal(table["batch"], batch))["id"].to_pylist()))


def undo_newest(root: Path, image: str, why: str, commit: bool = True) -> Taken:
    """Retract the newest word about sample `image`. Raises EvergreenError where none counts."""
    rows = standing(annotations_of(root, image, read_tombstones(root)))
    if not rows:
        raise EvergreenError(f"nothing that people said about {image[:12]} counts: its label is the one first given")
    newest = sorted(rows, key=lambda row: (row["at"] is not None, row["at"]))[-1]  # stable: equal times as taken
    return take(root, [_retraction(root, image, annotation_key(newest), why)], commit=commit, why=f"undo {image[:12]}")


def annotations_of(root: Path, image: str, tombstones: Collection[str] = ()) -> list[dict]:
    """All annotations of one sample, in the order in which they were taken, without those of `tombstones`."""
    table = read_annotations(root / "data", tombstones)
    return by_sample(table.filter(pc.equal(table["id"], image))).get(image, [])


def _retraction(root: Path, image: str, key: str, why: str) -> Answer:
    return Answer(image, retracts=key, annotator=person(root), role="reviewer", why=why)
