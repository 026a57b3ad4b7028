"""What a reviewer does with single samples: leave them out, take them back, correct a label."""

import getpass
from collections.abc import Sequence
from pathlib import Path

from flows.labels.journal import Answer
from flows.labels.take import Taken, take
from flows.labels.undo import annotations_of
from tasks.common.errors import EvergreenError
from tasks.labels.annotations import annotation_key, standing


def exclude(root: Path, images: Sequence[str], why: str, commit: bool = True) -> Taken:
    """Leave the samples `images` out, as a reviewer."""
    answers = [Answer(one, exclude=True, annotator=getpass.getuser(), role="reviewer", why=why) for one in images]
    return take(root, answers, commit=commit, why="exclude")


def include(root: Path, images: Sequence[str], why: str, commit: bool = True) -> Taken:
    """Take excluded samples back, with the label that counts without the exclusion. Raises EvergreenError."""
    by, answers = getpass.getuser(), []
    for image in images:
        excluding = [row for row in standing(annotations_of(root, image)) if row["exclude"]]
        if not excluding:
            raise EvergreenError(f"{image[:12]} is not excluded: `evergreen why {image[:12]}` says what counts")
        keys = [annotation_key(row) for row in excluding]
        answers += [Answer(image, retracts=key, annotator=by, role="reviewer", why=why) for key in keys]
    return take(root, answers, commit=commit, why="include")


def correct(root: Path, image: str, label: str | list[str], why: str, commit: bool = True) -> Taken:
    """Give one sample the label `label`, as a reviewer: it overrides what others say."""
    answer = Answer(image, label, annotator=getpass.getuser(), role="reviewer", why=why)
    return take(root, [answer], commit=commit, why="correct")
