"""Take back what people said: a whole batch of corrections, or the newest word about one sample."""

import getpass
from pathlib import Path

import pyarrow.compute as pc

from flows.labels.journal import Answer
from flows.labels.take import Taken, take
from tasks.common.errors import EvergreenError
from tasks.dataset.shards import known_batches
from tasks.labels.annotations import annotation_key, by_sample, read_annotations, retracted_keys, standing


def undo_batch(root: Path, batch: str, why: str, commit: bool = True) -> Taken:
    """Retract every annotation of `batch` that counts; if the batch was an undo, its annotations count again.

    Raises EvergreenError for a batch without annotations, or one that was undone before.
    """
    data = root / "data"
    if batch not in known_batches(data):
        raise EvergreenError(f"no batch {batch!r} in {data}: `evergreen why ID` names the batches of a sample")
    table = read_annotations(data)
    of = by_sample(table.filter(pc.is_in(table["id"], table.filter(pc.equal(table["batch"], batch))["id"])))
    answers = []
    for image, rows in of.items():
        gone = retracted_keys(rows)
        here = {annotation_key(row) for row in rows if row["batch"] == batch} - gone
        answers += [_retraction(image, key, why) for key in sorted(here)]
    if not answers:
        raise EvergreenError(f"nothing that batch {batch} says about labels counts: it has none, or was undone before")
    return take(root, answers, commit=commit, why=f"undo {batch}")


def undo_newest(root: Path, image: str, why: str, commit: bool = True) -> Taken:
    """Retract the newest word about sample `image`. Raises EvergreenError where none counts."""
    rows = standing(annotations_of(root, image))
    if not rows:
        raise EvergreenError(f"nothing that people said about {image[:12]} counts: its label is the one first given")
    newest = sorted(rows, key=lambda row: (row["at"] is not None, row["at"]))[-1]  # stable: equal times as taken
    return take(root, [_retraction(image, annotation_key(newest), why)], commit=commit, why=f"undo {image[:12]}")


def annotations_of(root: Path, image: str) -> list[dict]:
    """All annotations of one sample, in the order in which they were taken."""
    table = read_annotations(root / "data")
    return by_sample(table.filter(pc.equal(table["id"], image))).get(image, [])


def _retraction(image: str, key: str, why: str) -> Answer:
    return Answer(image, retracts=key, annotator=getpass.getuser(), role="reviewer", why=why)
