"""Two models' answers to the same images: agreement, confidence, and which is right more often.

A core on plain rows, without log or clock. N images. "Old" and "new" are two models, or the answers that were given
and those of a model that answers again.
"""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from monitoring.live.periods import is_right
from tasks.common.checks import Frozen
from tasks.gate.paired import Difference, compare_hits
from tasks.scoring.intervals import two_sided, wilson

CONFIDENCE = 0.95  # of the interval of the agreement
FLIPS = 30  # kinds of change that are kept, the most frequent first
EXAMPLES = 3  # images named for each of them

Label = str | list[str] | None


class Said(NamedTuple):
    """One model's answer. label None: the model could not read the image."""

    label: Label
    confidence: float | None
    needs_review: bool | None
    latency_ms: float | None = None


class Pair(NamedTuple):
    """Both answers to one image."""

    id: str
    old: Said
    new: Said
    truth: Label = None  # the true label; None: not known


class Side(Frozen):
    """One model's answers to the images that both could read."""

    confidence: float | None  # median; None: no image
    needs_review: float | None  # share that a person should look at
    unreadable: int
    latency_ms: float | None  # median, of the answers that say it


class Flip(Frozen):
    """Images that got another answer."""

    old: Label
    new: Label
    images: int
    examples: list[str]  # ids


class ClassChange(Frozen):
    """One class among the answers of both models."""

    name: str
    old: int  # answers that name it
    new: int
    kept: int  # images that both answer with it


class Right(Frozen):
    """How often both were right on the labelled images of one kind; new minus old, and the gate's paired test."""

    name: str  # "": of all images; else the true class
    images: int
    old: float
    new: float
    low: float
    high: float
    gained: int  # images only the new model has right
    lost: int
    p_better: float
    p_worse: float

    @property
    def verdict(self) -> str:
        """ "better" or "worse" if the interval leaves out 0, else "equal"."""
        return "better" if self.low > 0 else "worse" if self.high < 0 else "equal"


class TwoModels(Frozen):
    """What the pairs say."""

    images: int  # answered by both
    agree: int
    low: float  # interval of the share that agrees
    high: float
    old: Side
    new: Side
    flips: list[Flip]
    classes: list[ClassChange]
    right: Right | None  # None: no image has a label
    recalls: list[Right]  # of each true class, the one that loses most first

    @property
    def agreement(self) -> float | None:
        """Share of the images with the same answer."""
        return self.agree / self.images if self.images else None


def compare_answers(
    pairs: Sequence[Pair],
    labelled: Sequence[Pair] | None = None,
    *,
    confidence: float,
    groups: np.ndarray | None = None,
) -> TwoModels:
    """Compare the answers of `pairs`, and their rightness on `labelled` (None: those of `pairs` with a truth).

    confidence: of the intervals of rightness. groups: (L,) numbers of the labelled pairs with a truth; images of one
    number count as one observation.
    """
    both = [pair for pair in pairs if pair.old.label is not None and pair.new.label is not None]
    same = sum(is_right(pair.new.label, pair.old.label) for pair in both)
    low, high = wilson(same, len(both), two_sided(CONFIDENCE))
    known = [pair for pair in (pairs if labelled is None else labelled) if pair.truth is not None]
    return TwoModels(
        images=len(both),
        agree=same,
        low=low,
        high=high,
        old=_side([pair.old for pair in pairs]),
        new=_side([pair.new for pair in pairs]),
        flips=_flips(both),
        classes=_classes(both),
        right=_right("", known, [True] * len(known), confidence, groups) if known else None,
        recalls=_recalls(known, confidence, groups),
    )


def _side(said: Sequence[Said]) -> Side:
    read = [one for one in said if one.label is not None]
    sure = [one.confidence for one in read if one.confidence is not None]
    took = [one.latency_ms for one in read if one.latency_ms is not None]
    asked = [bool(one.needs_review) for one in read]
    return Side(
        confidence=float(np.median(sure)) if sure else None,
        needs_review=float(np.mean(asked)) if asked else None,
        unreadable=len(said) - len(read),
        latency_ms=float(np.median(took)) if took else None,
    )


def _flips(both: Sequence[Pair]) -> list[Flip]:
    found: dict[tuple, list[Pair]] = {}
    for pair in both:
        if not is_right(pair.new.label, pair.old.label):
            found.setdefault((_key(pair.old.label), _key(pair.new.label)), []).append(pair)
    kinds = sorted(found.items(), key=lambda one: (-len(one[1]), one[0]))
    return [
        Flip(
            old=pairs[0].old.label,
            new=pairs[0].new.label,
            images=len(pairs),
            examples=[pair.id for pair in pairs[:EXAMPLES]],
        )
        for _, pairs in kinds[:FLIPS]
    ]


def _classes(both: Sequence[Pair]) -> list[ClassChange]:
    old, new, kept = Counter(), Counter(), Counter()
    for pair in both:
        before, after = set(_names(pair.old.label)), set(_names(pair.new.label))
        old.update(before)
        new.update(after)
        kept.update(before & after)
    names = sorted(old.keys() | new.keys(), key=lambda name: (-(old[name] + new[name] - 2 * kept[name]), name))
    return [ClassChange(name=name, old=old[name], new=new[name], kept=kept[name]) for name in names]


def _recalls(known: Sequence[Pair], confidence: float, groups: np.ndarray | None) -> list[Right]:
    names = sorted({name for pair in known for name in _names(pair.truth)})
    found = []
    for name in names:
        here = [name in _names(pair.truth) for pair in known]
        found.append(_right(name, known, here, confidence, groups))
    return sorted(found, key=lambda one: (one.new - one.old, one.name))


def _right(
    name: str, known: Sequence[Pair], here: Sequence[bool], confidence: float, groups: np.ndarray | None
) -> Right:
    """Rightness on the pairs that are `here`: of whole answers, or of class `name`."""
    chosen = [pair for pair, wanted in zip(known, here, strict=True) if wanted]

    def hits(which: str) -> np.ndarray:
        said = [getattr(pair, which).label for pair in chosen]
        if name:
            return np.array([name in _names(label) for label in said], bool)
        return np.array([is_right(label, pair.truth) for label, pair in zip(said, chosen, strict=True)], bool)

    own = None if groups is None else np.asarray(groups)[np.array(here, bool)]
    found: Difference = compare_hits(hits("new"), hits("old"), confidence, own)
    return Right(
        name=name,
        images=found.n,
        old=found.old,
        new=found.new,
        low=found.low,
        high=found.high,
        gained=found.gained or 0,
        lost=found.lost or 0,
        p_better=found.p_better,
        p_worse=found.p_worse,
    )


def _names(label: Label) -> list[str]:
    return label if isinstance(label, list) else [label] if label is not None else []


def _key(label: Label) -> tuple[str, ...]:
    return tuple(sorted(_names(label)))
