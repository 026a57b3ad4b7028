"""What a reviewer does with single samples: leave them out, take them back, correct a label."""

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from flows.labels.journal import Answer, pending
from flows.labels.take import Taken, Waiting, take, take_later
from flows.labels.undo import annotations_of
from tasks.common.errors import EvergreenError
from tasks.common.person import person
from tasks.common.text import join_names
from tasks.dataset.shards import read_tombstones
from tasks.labels.annotations import annotation_key, standing
from tasks.sources import fields
from tasks.sources.fields import Unusable


def exclude(root: Path, images: Sequence[str], why: str, commit: bool = True, later: bool = False) -> Taken | Waiting:
    """Leave the samples `images` out, as a reviewer. later: `finish` does it, with other answers."""
    answers = [Answer(one, exclude=True, annotator=person(root), role="reviewer", why=why) for one in images]
    return _give(root, answers, "exclude", commit, later)


def include(root: Path, images: Sequence[str], why: str, commit: bool = True, later: bool = False) -> Taken | Waiting:
    """Take excluded samples back, with the label that counts without the exclusion. Raises EvergreenError."""
    by, answers = person(root), []
    waiting = {one.id for one in pending(root) if one.exclude}
    for image in images:
        excluding = [row for row in standing(annotations_of(root, image, read_tombstones(root))) if row["exclude"]]
        if not excluding:
            if image in waiting:
                raise EvergreenError(f"the exclusion of {image[:12]} still waits: `evergreen finish` takes it first")
            raise EvergreenError(f"{image[:12]} is not excluded: `evergreen why {image[:12]}` says what counts")
        keys = [annotation_key(row) for row in excluding]
        answers += [Answer(image, retracts=key, annotator=by, role="reviewer", why=why) for key in keys]
    return _give(root, answers, "include", commit, later)


def readable(words: Sequence[str], task: str, known: Sequence[str] | None) -> str | list[str]:
    """The label that `words` of a person say. Raises EvergreenError where one is not among the classes `known`.

    known: None accepts any name.
    """
    if len(words) > 1 and task == "multiclass":
        raise EvergreenError(
            f"{len(words)} labels for one image, but data.task is multiclass: give one (quote a name with spaces)"
        )
    try:
        found = fields.label(list(words), task, known)
    except Unusable as error:
        if error.reason != "unknown_label":
            raise EvergreenError(f"{' '.join(words)[:60]!r} cannot be a label: {error.detail}") from None
        known, unknown = list(dict.fromkeys(known or ())), [word for word in words if word.strip() not in known]
        meant = [close for word in unknown for close in get_close_matches(word, known, 1)]
        hint = f"did you mean {join_names(map(repr, meant))}? " if meant else ""
        raise EvergreenError(
            f"{unknown[0][:60]!r} is not a class: {hint}There are {join_names(map(repr, known), 20)}. "
            "`--new-class` makes it one"
        ) from None
    return [] if found is None else found


def correct(
    root: Path, image: str, label: str | list[str], why: str, commit: bool = True, later: bool = False
) -> Taken | Waiting:
    """Give one sample the label `label`, as a reviewer: it overrides what others say."""
    answer = Answer(image, label, annotator=person(root), role="reviewer", why=why)
    return _give(root, [answer], "correct", commit, later)


def _give(root: Path, answers: Sequence[Answer], why: str, commit: bool, later: bool) -> Taken | Waiting:
    return take_later(root, answers) if later else take(root, answers, commit=commit, why=why)
