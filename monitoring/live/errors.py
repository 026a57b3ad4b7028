"""What production got wrong in a month: estimates without bias, and the wrong answers themselves.

A core on tables, without log or clock. N answers of the month, L of them with a label. Labels that were asked for at
random give the shares and their intervals (monitoring.live.estimate); the list shows every wrong answer that is known.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
from pydantic import AwareDatetime

from monitoring.live.estimate import LiveAccuracy
from monitoring.live.periods import NO_SOURCE, Period, Share, measure_period, rights
from tasks.common.checks import Frozen

CONFIDENT = 0.9  # a wrong answer with at least this confidence is a confident mistake
LISTED = 500  # wrong answers that are kept of a month, the most confident first
PAIRS = 30  # confusions that are shown
EXAMPLES = 4  # pictures of each confusion
NAMED = 30  # lines of a table
RANDOM, HARD, GIVEN = "drawn at random", "asked for because it looked hard", "given without being asked for"

Label = str | list[str] | None


class Line(Frozen):
    """One source or class: how much of it is wrong, now and the month before."""

    name: str
    labels: int
    errors: int  # wrong answers among the labels, however they were picked
    wrong: Share | None  # of all its answers; without random labels, of its labels and without an interval
    before: Share | None = None

    @property
    def change(self) -> str:
        """ "worse" or "better" if the intervals do not meet, else ""."""
        if self.wrong is None or self.before is None or None in (self.wrong.low, self.before.low):
            return ""
        return "worse" if self.wrong.low > self.before.high else "better" if self.wrong.high < self.before.low else ""


class Confusion(Frozen):
    """Answers `prediction` to images of `label`."""

    label: Label
    prediction: Label
    errors: int
    examples: list[str]  # image ids


class Error(Frozen):
    """One wrong answer."""

    id: str
    at: AwareDatetime
    source: str | None
    version: str | None
    label: Label
    prediction: Label
    confidence: float | None
    unfamiliar: bool | None  # out of the model's distribution; None: not known
    picked: str  # RANDOM, HARD or GIVEN
    split: str | None = None  # of the image in data/ since
    learnt: bool = False  # the live version was trained on it


class Review(Frozen):
    """One month."""

    month: str  # "2026-11"
    answers: int
    labels: int
    accuracy: LiveAccuracy | None  # None: no label was asked for at random
    before: LiveAccuracy | None  # the month before
    errors_known: int
    confident: int  # of the known errors
    unfamiliar: int
    in_data: int
    learnt: int
    sources: list[Line]
    classes: list[Line]
    confusions: list[Confusion]
    errors: list[Error]

    @property
    def estimated(self) -> tuple[int, int, int] | None:
        """(about, at least, at most) how many of all answers are wrong; None without random labels."""
        if self.accuracy is None:
            return None
        shares = (1 - self.accuracy.value, 1 - self.accuracy.high, 1 - self.accuracy.low)
        return tuple(round(self.answers * share) for share in shares)

    def change(self) -> str:
        """What changed since the month before, in one sentence; "" if it is not known."""
        if self.accuracy is None or self.before is None:
            return ""
        difference = 100 * (self.accuracy.value - self.before.value)
        apart = self.accuracy.low > self.before.high or self.accuracy.high < self.before.low
        clear = "more than chance explains" if apart else "chance alone may explain it"
        return f"{difference:+.1f} points right against the month before: {clear}."


def months_around(month: str) -> tuple[datetime, datetime, datetime]:
    """(start of the month before, start, end) of "2026-11", in UTC. Raises ValueError for another text."""
    start = datetime.strptime(month, "%Y-%m").replace(tzinfo=UTC)
    if f"{start:%Y-%m}" != month:
        raise ValueError(f"{month[:20]!r} is not a month like 2026-11")
    after = start.replace(year=start.year + start.month // 12, month=start.month % 12 + 1)
    before = start.replace(year=start.year - (start.month == 1), month=(start.month - 2) % 12 + 1)
    return before, start, after


def review(
    month: str, answers: pa.Table, labelled: pa.Table, total: int, before: Period | None, since: Mapping[str, Sequence]
) -> Review:
    """What the labels say about a month.

    answers, total: as for `measure_period`. labelled: (L rows: id, at, source, version, confidence, prediction, label,
    chance, hard, unfamiliar). before: the month before. since: image id -> (split in data/, the live version was
    trained on it).
    """
    _, start, _ = months_around(month)
    now = measure_period(start, "", "", answers, labelled, total)
    wrong = np.flatnonzero(rights(labelled) == 0)
    found = [_error(row, since) for row in labelled.take(pa.array(wrong)).to_pylist()]
    found.sort(key=lambda one: (-(one.confidence or 0), one.id))
    return Review(
        month=month,
        answers=now.answers,
        labels=now.labels,
        accuracy=now.accuracy,
        before=before.accuracy if before else None,
        errors_known=len(found),
        confident=sum((one.confidence or 0) >= CONFIDENT for one in found),
        unfamiliar=sum(bool(one.unfamiliar) for one in found),
        in_data=sum(one.split is not None for one in found),
        learnt=sum(one.learnt for one in found),
        sources=_sources(now, before, labelled, found),
        classes=_classes(now, before, found),
        confusions=confusions(found),
        errors=found[:LISTED],
    )


def confusions(errors: Sequence[Error]) -> list[Confusion]:
    """The pairs of label and answer with the most known errors, each with pictures of its most confident ones."""
    of: dict[tuple, list[Error]] = {}
    for one in errors:
        of.setdefault((_key(one.label), _key(one.prediction)), []).append(one)
    pairs = sorted(
        of.values(), key=lambda members: (-len(members), _key(members[0].label), _key(members[0].prediction))
    )
    return [
        Confusion(
            label=members[0].label,
            prediction=members[0].prediction,
            errors=len(members),
            examples=[one.id for one in members[:EXAMPLES]],
        )
        for members in pairs[:PAIRS]
    ]


def _sources(now: Period, before: Period | None, labelled: pa.Table, errors: Sequence[Error]) -> list[Line]:
    labels = Counter(name or NO_SOURCE for name in labelled["source"].to_pylist())
    wrong = Counter(one.source or NO_SOURCE for one in errors)
    then = {name: _turned(share) for name, share in (before.sources if before else {}).items()}
    lines = []
    for name, count in labels.items():
        share = now.sources.get(name)
        own = _turned(share) if share else Share(labels=count, value=wrong[name] / count)
        lines.append(Line(name=name, labels=count, errors=wrong[name], wrong=own, before=then.get(name)))
    return _worst(lines)


def _classes(now: Period, before: Period | None, errors: Sequence[Error]) -> list[Line]:
    wrong = Counter(name for one in errors for name in _missed(one))
    then = {name: _turned(share) for name, share in (before.recalls if before else {}).items()}
    lines = [
        Line(name=name, labels=share.labels, errors=wrong[name], wrong=_turned(share), before=then.get(name))
        for name, share in now.recalls.items()
    ]
    known = {line.name for line in lines}
    lines += [
        Line(name=name, labels=count, errors=count, wrong=None) for name, count in wrong.items() if name not in known
    ]
    return _worst(lines)


def _turned(share: Share | LiveAccuracy) -> Share:
    """The share of wrong answers, from that of right ones."""
    labels = share.used if isinstance(share, LiveAccuracy) else share.labels
    low, high = (None if bound is None else 1 - bound for bound in (share.high, share.low))
    return Share(labels=labels, value=1 - share.value, low=low, high=high)


def _worst(lines: list[Line]) -> list[Line]:
    """The worst first: what is surely wrong counts, so that one wrong label of three does not lead the list."""

    def least(line: Line) -> tuple[float, float]:
        if line.wrong is None:
            return 0.0, 0.0
        return line.wrong.low if line.wrong.low is not None else 0.0, line.wrong.value

    ordered = sorted(lines, key=lambda line: (*(-part for part in least(line)), -line.errors, line.name))
    return ordered[:NAMED]


def _error(row: dict, since: Mapping[str, Sequence]) -> Error:
    split, learnt = since.get(row["id"], (None, False))
    picked = RANDOM if row["chance"] else HARD if row["hard"] else GIVEN
    kept = {name: row[name] for name in ("id", "at", "source", "version", "label", "prediction", "confidence")}
    return Error(**kept, unfamiliar=row["unfamiliar"], picked=picked, split=split, learnt=learnt)


def _missed(one: Error) -> list[str]:
    """The true classes that the answer lacks."""
    said, true = (value if isinstance(value, list) else [value] for value in (one.prediction, one.label))
    return [name for name in true if name is not None and name not in said]


def _key(label: Label) -> str:
    return label if isinstance(label, str) else " + ".join(label or [])
