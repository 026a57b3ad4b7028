"""Splits by time: train on the older images, calibrate on newer ones, test on the newest.

N new images lie in U units (groups or near-duplicates) that are never divided; a unit counts by its newest image, so no
training image is newer than the oldest unit held out with it. Recorded splits never move. So each ingest goes on from
there:

- a unit newer than all recorded images belongs to a new period, which is divided: its newest units are test, those
  before them calibration, the others train, as many as the shares of all images ask for;
- a unit from a period that is recorded already (a late delivery) goes where the images of its time are: to the split of
  the first recorded image that was taken no earlier;
- a unit without a time is trained on: nobody can say what it would test.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

UNKNOWN = np.iinfo(np.int64).min  # the time of an image without one
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Recorded:
    """R recorded rows that have a time: `at` (R,) int64 microseconds, ascending; `split` (R,) int in GROWING."""

    at: np.ndarray
    split: np.ndarray


NOTHING = Recorded(np.empty(0, np.int64), np.empty(0, np.int64))


def record(at: np.ndarray, split: np.ndarray) -> Recorded:
    """Recorded of rows in any order. Of rows with the same time, those held out count first."""
    order = np.lexsort((-split, at))
    return Recorded(at[order], split[order])


def times_of(taken: Sequence[datetime | None]) -> np.ndarray:
    """(N,) int64 microseconds since 1970, UNKNOWN for None."""
    return np.array([UNKNOWN if one is None else round((one - EPOCH).total_seconds() * 1e6) for one in taken], np.int64)


def assign(
    at: np.ndarray, unit: np.ndarray, may: np.ndarray, have: np.ndarray, recorded: Recorded, shares: np.ndarray
) -> np.ndarray:
    """The split of each of U units, (U,) int: 0 train, 1 calibration, 2 test.

    at: (N,) int64 of times_of; unit: (N,) in 0..U-1; may: (U, 3) bool, the splits a unit may go to; have: (3,) rows of
    each split so far; shares: (3,) asked of all rows.
    """
    count = len(may)
    newest = np.full(count, UNKNOWN)
    np.maximum.at(newest, unit, at)
    rows = np.bincount(unit, minlength=count)
    place = np.searchsorted(recorded.at, newest)
    late = (newest != UNKNOWN) & (place < len(recorded.at))
    split = np.zeros(count, np.int64)
    split[late] = recorded.split[place[late]]

    have = have + np.bincount(split[newest == UNKNOWN], rows[newest == UNKNOWN], 3)
    have = have + np.bincount(split[late], rows[late], 3)
    new = np.flatnonzero((newest != UNKNOWN) & ~late)
    new = new[np.argsort(newest[new], kind="stable")]
    split[new] = _cut(rows[new], _wanted(have, int(rows[new].sum()), shares), newest[new])
    for one in np.flatnonzero(~may[np.arange(count), split]):
        split[one] = np.flatnonzero(may[one])[-1]
    return split


def _wanted(have: np.ndarray, new: int, shares: np.ndarray) -> np.ndarray:
    """How many of `new` rows each split should get, (3,) float, so that all rows come near the shares."""
    lacking = np.maximum(shares * (have.sum() + new) - have, 0)
    return lacking * (new / lacking.sum()) if lacking.sum() > 0 else shares * new


def _cut(rows: np.ndarray, wanted: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Splits of units in the order of their times, (U,), with `rows` (U,) each. Units of one time stay together.

    A wanted split gets at least one unit, if there are enough times.
    """
    if len(rows) == 0:
        return np.empty(0, np.int64)
    _, moment = np.unique(at, return_inverse=True)
    before = np.concatenate([[0], np.cumsum(np.bincount(moment, rows))])  # (T + 1,) rows before each moment
    moments = len(before) - 1
    first, second = (int(np.abs(before - goal).argmin()) for goal in (wanted[0], wanted[0] + wanted[1]))
    least = (wanted > 0).astype(int)
    if moments >= least.sum():
        second = min(max(second, least[0] + least[1]), moments - least[2])
        first = min(max(first, least[0]), second - least[1])
    return (moment >= first).astype(np.int64) + (moment >= max(first, second))
