"""Incidents: windows in a row that were not quiet, as one thing; and the bars of the chart.

W windows, oldest first.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from flows.console.index.windows import WindowOutline
from monitoring.contracts import Expected
from monitoring.expected import covers
from monitoring.plain_names import plain_name

GRAVE = ("none", "watch", "label", "retrain")  # outcomes, the gravest last
CELLS = 150  # of the chart
BREAK = 2  # quiet windows in a row end an incident


@dataclass(frozen=True)
class Incident:
    """Windows in a row that were not quiet; at most one quiet window lies between two of them."""

    first: str  # ids of windows
    last: str
    start: datetime
    end: datetime
    windows: int
    outcome: str  # the gravest
    grave: str  # id of the newest window with it
    worst: str | None  # code name of the measure that moved most; None: none was measured
    ratio: float | None  # of that measure to its bound
    version: str
    retrained: tuple[str, ...] = ()  # windows that started a retraining
    expected: int = 0  # windows whose drift people marked as expected
    lasts: bool = False  # no quiet window has come since

    @property
    def measure(self) -> str:
        return plain_name(self.worst) if self.worst else ""


def is_expected(window: WindowOutline, marks: Sequence[Expected]) -> bool:
    """Whether people marked all that drifted in the window as expected; by its list of measures alone."""
    return bool(window.drifted) and all(any(covers(mark, name, window) for mark in marks) for name in window.drifted)


def incidents(windows: Sequence[WindowOutline], marks: Sequence[Expected] = ()) -> list[Incident]:
    """The incidents of W windows, oldest first."""
    found: list[list[WindowOutline]] = []
    quiet = BREAK
    for window in windows:
        if window.outcome == "none":
            quiet += 1
            continue
        if quiet >= BREAK or found[-1][-1].bundle != window.bundle:
            found.append([])
        found[-1].append(window)
        quiet = 0
    made = [_incident(part, marks) for part in found]
    if made and quiet == 0:
        made[-1] = Incident(**{**vars(made[-1]), "lasts": True})
    return made


def _incident(part: Sequence[WindowOutline], marks: Sequence[Expected]) -> Incident:
    gravest = max(part, key=lambda one: (GRAVE.index(one.outcome), one.id))
    moved = max(part, key=lambda one: one.worst or 0)
    return Incident(
        first=part[0].id,
        last=part[-1].id,
        start=part[0].start,
        end=max(one.end for one in part),
        windows=len(part),
        outcome=gravest.outcome,
        grave=gravest.id,
        worst=moved.drifted[0] if moved.drifted else next((name for one in part for name in one.drifted), None),
        ratio=moved.worst,
        version=part[-1].version,
        retrained=tuple(one.id for one in part if one.retrained),
        expected=sum(is_expected(one, marks) for one in part),
    )


def incident_of(windows: Sequence[WindowOutline], window: str) -> Incident | None:
    """The incident that the window is part of; None if it was quiet. windows: around it, oldest first."""
    return next((one for one in incidents(windows) if one.first <= window <= one.last), None)


@dataclass(frozen=True)
class Bar:
    """One bar of the chart: some windows in a row, shown as the gravest of them."""

    window: str
    outcome: str
    ratio: float | None
    start: datetime
    end: datetime
    windows: int
    expected: bool = False
    current: bool = False


def bars(
    windows: Sequence[WindowOutline], marks: Sequence[Expected] = (), current: str = "", most: int = CELLS
) -> list[Bar]:
    """At most `most` bars, oldest first, each of an equal number of windows: its gravest outcome, then the newest."""
    step = -(-len(windows) // most) or 1
    found = []
    for end in range(len(windows), 0, -step):
        part = windows[max(end - step, 0) : end]
        gravest = max(part, key=lambda one: (GRAVE.index(one.outcome), one.worst or 0, one.id))
        found.append(
            Bar(
                window=gravest.id,
                outcome=gravest.outcome,
                ratio=gravest.worst,
                start=part[0].start,
                end=part[-1].end,
                windows=len(part),
                expected=is_expected(gravest, marks),
                current=any(one.id == current for one in part),
            )
        )
    return found[::-1]
