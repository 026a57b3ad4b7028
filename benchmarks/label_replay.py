"""Do the same corrections give the same labels in whatever order and batches they are taken, and does undo undo?

    python -m benchmarks.label_replay [--quick]

Three annotators, one of them a reviewer, correct 1,000 labels of 60 images at random: labels, exclusions, and undos of
earlier words. A project in git and DVC takes them one batch after the other; a second one takes the same in random
order and other batches. Then all of it is undone, in random order. Expected: replay_mismatches 0 (images whose label or
exclusion differs between the two, or from the label first given after the undo). A quick pass makes 40.
"""

import argparse
import random
import tempfile
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa

from benchmarks.record import Figure, report
from benchmarks.scratch import say
from flows.labels.journal import Answer
from flows.labels.take import take
from flows.labels.undo import undo_batch
from tasks.common.errors import EvergreenError
from tasks.dataset.annotation_files import annotation_batches
from tasks.labels.annotations import annotation_key, decide_all, read_annotations
from tests.support import versions_project

PEOPLE = (("ann", "annotator"), ("bob", "annotator"), ("eve", "reviewer"))
LABELS = ("cat", "dog", "bird")
START = datetime(2026, 1, 1, tzinfo=UTC)
IMAGES = 60


def corrections(count: int, ids: list[str], seed: int) -> list[tuple[Answer, int | None]]:
    """`count` answers at distinct times, each with None, or with the number of the earlier answer that it undoes."""
    rng = random.Random(seed)
    made: list[tuple[Answer, int | None]] = []
    for number in range(count):
        who, role = rng.choice(PEOPLE)
        at = START + timedelta(seconds=number)
        if made and rng.random() < 0.25:
            target = rng.randrange(len(made))
            made.append((Answer(made[target][0].id, annotator=who, role=role, at=at, retracts="?"), target))
        elif rng.random() < 0.1:
            made.append((Answer(rng.choice(ids), exclude=True, annotator=who, role=role, at=at), None))
        else:
            made.append((Answer(rng.choice(ids), rng.choice(LABELS), annotator=who, role=role, at=at), None))
    return made


def apply(root: Path, made: list[tuple[Answer, int | None]], order: list[int], seed: int, largest: int) -> None:
    """Take the corrections in `order`, in batches of random lengths; an undo waits until its target was taken."""
    rng, done = random.Random(seed), set()
    waiting = list(order)
    while waiting:
        ready = [number for number in waiting if made[number][1] is None or made[number][1] in done]
        batch = ready[: rng.randint(1, largest)]
        keys = {(row["id"], row["at"]): annotation_key(row) for row in read_annotations(root / "data").to_pylist()}
        answers = []
        for number in batch:
            answer, target = made[number]
            if target is not None:
                answer = replace(answer, retracts=keys[answer.id, made[target][0].at])
            answers.append(answer)
        take(root, answers)
        done.update(batch)
        waiting = [number for number in waiting if number not in done]


def labels(root: Path, ids: list[str], first: list[str]) -> list[tuple]:
    """(label, excluded) of each image."""
    annotations = read_annotations(root / "data")
    found = decide_all(pa.chunked_array([pa.array(ids)]), pa.chunked_array([pa.array(first)]), annotations)
    return [
        (found[row].label, found[row].excluded) if row in found else (label, False) for row, label in enumerate(first)
    ]


def undo_all(root: Path, seed: int) -> None:
    """Undo every batch of corrections, in random order; those again that another undo has brought back."""
    batches = [batch.batch for batch in annotation_batches(root / "data") if batch.batch.startswith("l-")]
    random.Random(seed).shuffle(batches)
    undone = True
    while undone:
        undone = False
        for batch in batches:
            try:
                undo_batch(root, batch, "undo all")
                undone = True
            except EvergreenError:  # undone before
                continue


def differ(one: list, other: list) -> int:
    """How many entries of two lists differ."""
    return sum(a != b for a, b in zip(one, other, strict=True))


def measure(folder: Path, count: int, seed: int = 0) -> tuple[int, int]:
    """(images whose labels differ between the two orders, and after undo; images that the corrections changed)."""
    rows = versions_project.rows(1).slice(0, IMAGES).select(["id", "label"]).to_pylist()
    ids, first = [row["id"] for row in rows], [row["label"] for row in rows]
    made = corrections(count, ids, seed)
    shuffled = list(range(count))
    random.Random(seed + 1).shuffle(shuffled)
    found = []
    for name, order in (("in-order", list(range(count))), ("shuffled", shuffled)):
        root = versions_project.start(folder / name)
        versions_project.add_batch(root, 1)
        apply(root, made, order, seed + 2, max(2, count // 20))
        found.append(labels(root, ids, first))
        say(f"{name}: {count} corrections in {len(annotation_batches(root / 'data')) - 1} batches")
    before = [(label, False) for label in first]
    wrong = differ(*found)
    undo_all(folder / "in-order", seed + 3)
    return wrong + differ(labels(folder / "in-order", ids, first), before), differ(found[0], before)


def main(arguments: list[str] | None = None) -> list[Figure]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args(arguments).quick
    with tempfile.TemporaryDirectory() as folder:
        wrong, changed = measure(Path(folder), 40 if quick else 1000)
    figures = [
        Figure(
            name="replay_mismatches",
            value=wrong,
            unit="images",
            goal=0,
            better="lower",
            spread=f"{changed} of {IMAGES} images changed by the corrections",
        )
    ]
    report("label_replay", "python -m benchmarks.label_replay", figures, quick)
    return figures


if __name__ == "__main__":
    main()
