"""A second look at a random share of the labels measures how often people err.

Which samples get one depends on their id alone, so it is a random share whatever people think of them. The second
person does not see the first label. N is the number of samples.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from tasks.common.files import sha256_bytes
from tasks.labels.annotations import Label
from tasks.labels.votes import ballot, is_original, newest_votes
from tasks.scoring.intervals import two_sided, wilson

CONFIDENCE = 0.95


class Look(NamedTuple):
    """A label and what a second person said about the sample."""

    id: str
    annotator: str  # who gave the label; "" if nobody is named
    same: bool
    by_reviewer: bool  # the second person is a reviewer


class ErrorRate(NamedTuple):
    """Share of labels that second looks contradict, with its 95 % interval."""

    wrong: int
    looks: int
    low: float
    high: float

    def sentence(self) -> str:
        """Say it in one sentence."""
        if not self.looks:
            return "no second look yet"
        share = f"{self.wrong / self.looks:.1%} of {self.looks} second looks contradict the label"
        return f"{share} ({self.low:.1%} to {self.high:.1%})"


def draw(id: str) -> float:
    """A number in [0, 1) from an id, the same on every machine."""
    return int(sha256_bytes(f"second look {id}".encode())[:13], 16) / 16**13


def chosen(ids: Iterable[str], share: float) -> list[str]:
    """The ids that get a second look, in random order."""
    drawn = ((draw(name), name) for name in ids)
    return [name for value, name in sorted(drawn) if value < share]


def second_look(id: str, original: Label, rows: Sequence[dict]) -> Look | None:
    """The first and the second person's word about a sample; None if there is only one.

    rows: the standing annotations of the sample in order of time. The first word is the original label, or without one
    the first annotation; the second is the newest of another person.
    """
    votes = [row for row in newest_votes(rows) if not row["exclude"] and row["label"] is not None]
    named = next((row for row in rows if is_original(row, original)), None)  # it may have been replaced since
    if original is None or named is not None:
        first = named or next(iter(votes), None)
        if first is None:
            return None
        label, who = first["label"], first["annotator"] or ""
    else:
        first, label, who = None, original, ""
    others = [row for row in votes if row is not first and (row["annotator"] or "") != who]
    others += [row for row in rows if row["role"] == "reviewer" and row["exclude"]]
    if not others:
        return None
    reviewers = [row for row in others if row["role"] == "reviewer"]
    second = (reviewers or others)[-1]
    return Look(id, who, not second["exclude"] and _same(second["label"], label), bool(reviewers))


def error_rate(looks: Iterable[Look]) -> ErrorRate:
    """How often the second person says something else."""
    listed = list(looks)
    wrong = sum(not look.same for look in listed)
    return ErrorRate(wrong, len(listed), *wilson(wrong, len(listed), two_sided(CONFIDENCE)))


def _same(a: Label, b: Label) -> bool:
    return a is not None and b is not None and ballot(a) == ballot(b)
