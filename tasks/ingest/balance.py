"""Balanced splits for new units: groups, or clusters of near-duplicates, which are never divided.

U units are decided together, given what is recorded. J strata are balanced: all rows, each class, the rows of this
ingest and those of each of its sources. Splits are numbered as GROWING: train, calibration, test. The best assignment

1. leaves the fewest classes without a training row, then without a test row, then without a calibration row;
2. has the smallest deviation: for each stratum the share of its rows that lies in splits beyond their asked share,
   weighted: all rows 5, the classes together 1, this ingest 1, its sources together 1. In this ingest and in a
   source, a split may have one unit more than its share, so that small ingests repair what is recorded.

Few units: the best assignment of all. More: the largest first, then moves and swaps as long as they help. Units of one
row are left for last and dealt within their class and source in the order of a hash. Everything is decided in whole
numbers and by hash ranks, so neither the order of rows nor the machine changes it.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tasks.ingest.balance_search import Problem, best_of_all, greedy, improved

if TYPE_CHECKING:
    import scipy.sparse as sp

TRAIN, CALIBRATION, TEST = range(3)
PRIORITY = (TRAIN, TEST, CALIBRATION)  # which split a class with few units gets first
FEW = 12  # units: with so few, single rows are searched too
SOURCES = 50  # the largest sources of an ingest are balanced
MILLION = 1_000_000


@dataclass(frozen=True)
class Units:
    """U units to assign; K classes, M sources. Rows without a label have a class of their own."""

    rows: np.ndarray  # (U,) int
    classes: "sp.csr_matrix"  # (U, K) int rows of each class; a row has at least one
    source: np.ndarray  # (U,) int, number of the source that most of its rows have; -1: none
    rank: np.ndarray  # (U,) distinct ints: the order of a hash
    may: np.ndarray  # (U, 3) bool: the splits that a unit may go to, at least one
    cover: np.ndarray  # (K,) bool: classes that should have a row in each split


@dataclass(frozen=True)
class Recorded:
    """Rows in each split before: all (3,), of each class (3, K), of each source (3, M)."""

    rows: np.ndarray
    classes: np.ndarray
    sources: np.ndarray


def assign(units: Units, recorded: Recorded, shares: np.ndarray) -> np.ndarray:
    """The split of each unit, (U,) int. `shares` (3,) are the asked ones and sum to 1."""
    order = np.argsort(units.rank, kind="stable")
    units = Units(*(getattr(units, name)[order] for name in ("rows", "classes", "source", "rank", "may")), units.cover)
    searched = (units.rows > 1) | (len(order) <= FEW)
    parts = np.round(np.asarray(shares) * MILLION).astype(np.int64)
    found = np.full(len(order), -1)
    problem = _problem(units, recorded, parts, searched)
    if searched.any():
        found[searched] = best_of_all(problem, improved(problem, greedy(problem, shares)))
    if not searched.all():
        _deal(units, recorded, np.asarray(shares), found)
    result = np.empty(len(order), int)
    result[order] = found
    return result


def _problem(units: Units, recorded: Recorded, parts: np.ndarray, searched: np.ndarray) -> Problem:
    """The units that are searched as counts by stratum; those that are dealt afterwards fill what is open."""
    import scipy.sparse as sp

    k = units.classes.shape[1]
    counts = np.bincount(units.source[units.source >= 0], weights=units.rows[units.source >= 0])
    largest = np.sort(np.argsort(-counts, kind="stable")[:SOURCES])
    named = np.flatnonzero(counts)
    largest = largest[np.isin(largest, named)]
    of_source = sp.csr_matrix(units.source[:, None] == largest) if len(largest) else sp.csr_matrix((len(units.rows), 0))
    rows = sp.csr_matrix(units.rows[:, None])
    members = sp.hstack([rows, units.classes, rows, of_source.multiply(units.rows[:, None])]).tocsr().astype(np.int64)
    base = np.concatenate(
        [recorded.rows[:, None], recorded.classes, np.zeros((3, 1)), recorded.sources[:, largest]], axis=1
    ).astype(np.int64)
    fill = np.asarray(members[~searched].sum(axis=0)).ravel()
    total = base.sum(axis=0) + np.asarray(members.sum(axis=0)).ravel()
    weight = np.ones(base.shape[1], np.int64)
    sources, classes = max(len(largest), 1), max(int((total[1 : 1 + k] > 0).sum()), 1)
    weight[0] = 5 * classes * sources
    weight[1 : 1 + k] = sources
    weight[1 + k] = classes * sources
    weight[2 + k :] = classes
    slack = np.zeros(base.shape[1], np.int64)
    slack[1 + k :] = members[:, 1 + k :].max(axis=0).toarray().ravel()
    cover = np.zeros(base.shape[1], bool)
    cover[1 : 1 + k] = units.cover
    return Problem(members[searched], units.may[searched], base, fill, total, weight, slack, cover, parts)


def _deal(units: Units, recorded: Recorded, shares: np.ndarray, found: np.ndarray) -> None:
    """Deal the units of one row, whose entry in `found` (U,) is -1, and set it."""
    one = np.flatnonzero(found < 0)
    done = np.flatnonzero(found >= 0)
    classes = recorded.classes + _by_split(units.classes[done], found[done])
    total = classes.sum(axis=0) + np.asarray(units.classes[one].sum(axis=0)).ravel()
    stratum = _rarest(units.classes[one], total)
    known = units.source >= 0
    sources = recorded.sources.copy()
    np.add.at(sources, (found[done][known[done]], units.source[done][known[done]]), units.rows[done][known[done]])

    quota = _quota(classes, stratum, shares)[stratum]
    source = units.source[one]
    if (source >= 0).any():
        by_source = _quota(sources, source[source >= 0], shares)
        quota[source >= 0] = (quota[source >= 0] + by_source[source[source >= 0]]) / 2
    quota *= units.may[one]
    quota[quota.sum(axis=1) <= 0] = units.may[one][quota.sum(axis=1) <= 0]
    parts = np.round(quota / quota.sum(axis=1, keepdims=True) * MILLION).astype(np.int64)
    order = np.lexsort([np.arange(len(one)), source, stratum])  # the units are in the order of their rank
    found[one[order]] = _systematic(parts[order], units.rank[one])
    _cover(units, one, stratum, classes + _by_split(units.classes[one], found[one]), shares, found)


def _by_split(classes: "sp.csr_matrix", splits: np.ndarray) -> np.ndarray:
    """Rows of each class in each split, (3, K), of units with `classes` (N, K) in `splits` (N,)."""
    return np.stack([np.asarray(classes[splits == s].sum(axis=0)).ravel() for s in range(3)])


def _rarest(classes: "sp.csr_matrix", total: np.ndarray) -> np.ndarray:
    """The rarest class of each row, (N,). total: (K,)."""
    rank = np.empty(len(total), int)
    rank[np.argsort(total, kind="stable")] = np.arange(len(total))
    found = np.zeros(classes.shape[0], int)
    row = np.repeat(np.arange(classes.shape[0]), np.diff(classes.indptr))
    order = np.argsort(-rank[classes.indices], kind="stable")  # the last write wins: the rarest
    found[row[order]] = classes.indices[order]
    return found


def _quota(have: np.ndarray, stratum: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """(J, 3) shares of the new rows of each stratum: what it lacks, but for each split at least half of what is asked.

    Half: so that a new batch is tested on itself although it repairs an imbalance. have: (3, J); stratum: (N,) numbers.
    """
    new = np.bincount(stratum, minlength=have.shape[1])
    lacking = np.maximum(shares[:, None] * (have.sum(axis=0) + new) - have, 0)
    quota = np.maximum(lacking / np.maximum(lacking.sum(axis=0), 1e-9), shares[:, None] / 2)
    return (quota / quota.sum(axis=0)).T


def _systematic(parts: np.ndarray, rank: np.ndarray) -> np.ndarray:
    """A split for each of N rows in order, so that every stretch of rows comes near its summed `parts` (N, 3, ppm)."""
    phase = int(rank[0]) % MILLION, int(rank[0]) // MILLION % MILLION
    held = parts[:, TEST] + parts[:, CALIBRATION]
    away = np.flatnonzero(np.diff((phase[0] + np.cumsum(held)) // MILLION, prepend=phase[0] // MILLION) > 0)
    of_test = parts[away, TEST] * MILLION // np.maximum(held[away], 1)
    test = np.diff((phase[1] + np.cumsum(of_test)) // MILLION, prepend=phase[1] // MILLION) > 0
    found = np.full(len(parts), TRAIN)
    found[away] = np.where(test, TEST, CALIBRATION)
    return found


def _cover(
    units: Units, one: np.ndarray, stratum: np.ndarray, have: np.ndarray, shares: np.ndarray, found: np.ndarray
) -> None:
    """Move single rows so that every class that can has one in train, then in test, then in calibration.

    one: numbers of the single rows; stratum: their class; have: (3, K) rows; found: (U,), changed in place.
    """
    order = np.argsort(stratum, kind="stable")
    start = np.searchsorted(stratum[order], np.arange(len(units.cover) + 1))
    wanted = [split for split in PRIORITY if shares[split] > 0]
    lacking = np.flatnonzero((have[wanted] == 0).any(axis=0) & (np.diff(start) > 0) & units.cover)
    for number in lacking[np.argsort(have.sum(axis=0)[lacking], kind="stable")]:
        members = one[order[start[number] : start[number + 1]]]
        for place, split in enumerate(wanted):
            if have[split, number] == 0:
                later = [s for s in wanted[:place:-1] if have[s, number] == 1]
                donors = sorted((s for s in range(3) if have[s, number] > 1), key=lambda s: -have[s, number])
                _move_one(units, members, donors or later, split, number, have, found)


def _move_one(units, members, donors, split, number, have, found) -> None:
    """Move the first of `members` that may go, from the first of `donors` that has one, to `split`."""
    for donor in donors:
        for unit in members[(found[members] == donor) & units.may[members, split]]:
            own = units.classes[unit].indices
            others = own[(own != number) & units.cover[own]]
            if (have[donor, others] > 1).all():
                have[donor, own] -= 1
                have[split, own] += 1
                found[unit] = split
                return
