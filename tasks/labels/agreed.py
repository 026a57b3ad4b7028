"""The consensus of named votes: which label each sample gets from its annotators.

A ballot is one sample's votes: {annotator: label}. The label set of a multi-label sample is a sorted tuple. N is the
number of ballots.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np

from tasks.labels.consensus import (
    DawidSkene,
    Quality,
    Votes,
    annotator_qualities,
    dawid_skene,
    most_probable,
)

ENOUGH = 300  # samples with three votes, from which Dawid-Skene is used: below, it errs as often as the majority
LARGEST = 10**8  # numbers in all confusion matrices together; beyond, the majority decides

Label = str | tuple[str, ...]
Ballot = Mapping[str, Label]
Method = Literal["majority", "dawid_skene"]


class Patterns(NamedTuple):
    """The distinct ballots among N: D of them, with the label first given; few, however many samples there are."""

    ballots: list[dict[str, Label]]
    firsts: list[Label | None]
    weights: np.ndarray  # (D,) samples of each
    of: np.ndarray  # (N,) the number of each ballot's pattern


def agree(ballots: Sequence[Ballot], firsts: Sequence[Label | None], method: Method) -> list[Label]:
    """The consensus of each ballot; a tie keeps the label of `firsts` (N,), the one first given, if it got a vote.

    "dawid_skene" needs ENOUGH ballots of three votes; with fewer the majority decides. Multi-label: the majority
    chooses among whole label sets, Dawid-Skene decides each class by itself.
    """
    found = distinct(ballots, firsts)
    if method == "majority" or not fits(found):
        chosen = [most_votes(ballot, first) for ballot, first in zip(found.ballots, found.firsts, strict=True)]
    else:
        chosen = _dawid_skene(found)
    return [chosen[number] for number in found.of]


def most_votes(ballot: Ballot, first: Label | None) -> Label:
    """The label with most votes; `first` wins a tie if it got as many, else the one mentioned first."""
    count = Counter(ballot.values())
    best = max(count.values())
    winners = [label for label in count if count[label] == best]
    return first if first in winners else winners[0]


def qualities(ballots: Sequence[Ballot]) -> dict[str, Quality]:
    """How often each annotator is right, by Dawid-Skene, on samples that others labelled too; see Quality.

    Multi-label: of the classes that any annotator of the data set uses, judged one by one.
    """
    found = distinct(ballots, [None] * len(ballots))
    names = _annotators(found)
    parts = []
    for _, votes, fit, weights in _fits(found):
        parts.append(annotator_qualities(votes, fit, len(names), weights))
    joined = {}
    for number, name in enumerate(names):
        mine = [part[number] for part in parts if part[number].labels]
        if mine:
            means = (float(np.mean([getattr(one, key) for one in mine])) for key in ("right", "low", "high"))
            joined[name] = Quality(*means, mine[0].labels)
    return joined


def distinct(ballots: Sequence[Ballot], firsts: Sequence[Label | None]) -> Patterns:
    """Group equal ballots: consensus depends on nothing else."""
    numbers: dict[tuple, int] = {}
    of = np.empty(len(ballots), np.int64)
    for row, (ballot, first) in enumerate(zip(ballots, firsts, strict=True)):
        of[row] = numbers.setdefault((tuple(ballot.items()), first), len(numbers))
    weights = np.bincount(of, minlength=len(numbers)).astype(float)
    return Patterns([dict(votes) for votes, _ in numbers], [first for _, first in numbers], weights, of)


def fits(found: Patterns) -> bool:
    """Whether there are enough votes for Dawid-Skene, and not too many annotators and classes."""
    three = sum(weight for ballot, weight in zip(found.ballots, found.weights, strict=True) if len(ballot) > 2)
    classes = 2 if _is_multilabel(found) else len(_classes(found))
    return three >= ENOUGH and len(_annotators(found)) * classes**2 <= LARGEST


def _dawid_skene(found: Patterns) -> list[Label]:
    names = _classes(found)
    if not _is_multilabel(found):
        number = {name: index for index, name in enumerate(names)}
        prefer = np.array([number.get(first, -1) for first in found.firsts])
        ((_, _, fit, _),) = _fits(found)
        return [names[index] for index in most_probable(fit, prefer)]
    sets: list[list[str]] = [[] for _ in found.ballots]
    for name, _, fit, _ in _fits(found):
        prefer = np.array([-1 if first is None else int(name in first) for first in found.firsts])
        for row in np.flatnonzero(most_probable(fit, prefer)):
            sets[row].append(name)
    return [tuple(chosen) for chosen in sets]


def _fits(found: Patterns) -> list[tuple[str, Votes, DawidSkene, np.ndarray]]:
    """(class, votes, fit, weights): one for all classes, named ""; multi-label: one of absent and present per class."""
    names, annotators = _classes(found), _annotators(found)
    number = {name: index for index, name in enumerate(names)}
    readings: list[tuple[str, Callable[[Label], int], int]] = [("", lambda label: number[label], len(names))]
    if _is_multilabel(found):
        readings = [(name, lambda label, name=name: int(name in label), 2) for name in names]
    place = {name: index for index, name in enumerate(annotators)}
    item = np.repeat(np.arange(len(found.ballots)), [len(ballot) for ballot in found.ballots])
    who = np.array([place[name] for ballot in found.ballots for name in ballot], np.int64)
    fitted = []
    for name, read, classes in readings:
        said = np.array([read(label) for ballot in found.ballots for label in ballot.values()], np.int64)
        votes = Votes(item, who, said)
        fit = dawid_skene(votes, len(found.ballots), len(annotators), classes, found.weights)
        fitted.append((name, votes, fit, found.weights))
    return fitted


def _annotators(found: Patterns) -> list[str]:
    return sorted({name for ballot in found.ballots for name in ballot})


def _classes(found: Patterns) -> list[str]:
    labels = {label for ballot in found.ballots for label in ballot.values()}
    return sorted({name for label in labels for name in ((label,) if isinstance(label, str) else label)})


def _is_multilabel(found: Patterns) -> bool:
    return any(isinstance(label, tuple) for ballot in found.ballots for label in ballot.values())
