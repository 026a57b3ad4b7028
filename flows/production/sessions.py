"""Groups for labels from production: the images that a source took in one stretch of time.

Neighbouring frames show the same scene, so a session is never divided between splits. But all labels of a camera in one
split would teach it without testing it, or the reverse. So the stretch is as long as it can be while the labels of a
source still fall into several.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

STRETCHES = (("day", 86_400), ("hour", 3_600), ("10 minutes", 600), ("minute", 60))  # seconds
SEVERAL = 7  # sessions: with fewer, no split of 15 % comes near its share
LARGEST = 0.3  # of a source's labels in one session


def session_groups(
    sources: Sequence[str | None],
    times: Sequence[datetime],
    known: Mapping[str | None, str] | None = None,
    measuring: Sequence[bool] = (),
) -> list[str | None]:
    """The group of each of N images by source and time; None: only near-duplicates stay together.

    known: groups of the data set, with their split. An image that falls into a recorded session belongs to it.
    measuring: which images may measure a model; the others are only trained on. A longer session would take the first
    into train along with the second, so where a source has both, sessions are as short as they can be.
    """
    known = {name: split for name, split in (known or {}).items() if name is not None}
    measuring = measuring or [True] * len(times)
    rows_of: dict[str | None, list[int]] = {}
    for row, source in enumerate(sources):
        rows_of.setdefault(source, []).append(row)
    groups: list[str | None] = [None] * len(times)
    for source, rows in rows_of.items():
        taken = [times[row] for row in rows]
        both = len({measuring[row] for row in rows}) > 1
        stretch = _several(taken, STRETCHES[-1:]) if both else _stretch(taken)
        for row in rows:
            names = [_name(source, times[row], one) for one in STRETCHES]
            joins = [name for name in names[:-1] if name in known and (known[name] != "train") == measuring[row]]
            own = _name(source, times[row], stretch) if stretch else None
            if own is not None and own in known and own not in joins:
                own = names[-1]
            groups[row] = joins[0] if joins else names[-1] if names[-1] in known else own
    return groups


def _stretch(times: Sequence[datetime]) -> tuple[str, int] | None:
    """The longest stretch that gives SEVERAL sessions, none too large; few labels: the shortest."""
    return STRETCHES[-1] if len(times) < SEVERAL else _several(times, STRETCHES)


def _several(times: Sequence[datetime], stretches: Sequence[tuple[str, int]]) -> tuple[str, int] | None:
    """The first of `stretches` that gives SEVERAL sessions, none too large."""
    for stretch in stretches:
        counts = Counter(_number(at, stretch) for at in times).values()
        if len(counts) >= SEVERAL and max(counts) <= LARGEST * len(times):
            return stretch
    return None


def _number(at: datetime, stretch: tuple[str, int]) -> int:
    return int(at.timestamp()) // stretch[1]


def _name(source: str | None, at: datetime, stretch: tuple[str, int]) -> str:
    start = datetime.fromtimestamp(_number(at, stretch) * stretch[1], UTC)
    return f"{source or 'production'}, {stretch[0]} from {start:%Y-%m-%d %H:%M}"
