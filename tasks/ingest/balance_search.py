"""Search for the best assignment of U units to 3 splits, as tasks.ingest.balance defines it.

J strata. Costs are whole numbers: classes missing in train, test and calibration, then the deviation.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from math import comb, prod
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import scipy.sparse as sp

PRIORITY = (0, 2, 1)  # train, test, calibration: a class is missing there first, second, last
MOST = 600_000  # assignments that are all tried: those of 12 units
WORK = 400_000_000  # numbers that one search may look at
BLOCK = 2_000_000  # at a time
SWAPPED = 150  # units of which pairs are tried
MILLION = 1_000_000


@dataclass(frozen=True)
class Problem:
    """U units, what is recorded, and what is asked."""

    members: "sp.csr_matrix"  # (U, J) int: rows of each unit in each stratum
    may: np.ndarray  # (U, 3) bool
    base: np.ndarray  # (3, J) int: recorded rows
    fill: np.ndarray  # (J,) int: single rows that are dealt afterwards, where they are needed
    total: np.ndarray  # (J,) int: recorded, searched and single rows
    weight: np.ndarray  # (J,) int
    slack: np.ndarray  # (J,) int: rows that a split may have beyond its share
    cover: np.ndarray  # (J,) bool: classes, which should have a row in each split
    parts: np.ndarray  # (3,) int: asked shares in millionths


def missing(problem: Problem, have: np.ndarray) -> np.ndarray:
    """(C, 3) int: classes without a row in train, in test, in calibration; have: (C, 3, J) rows."""
    left = problem.fill[problem.cover]
    found = np.zeros((len(have), 3), np.int64)
    for place, split in enumerate(PRIORITY):
        if problem.parts[split] > 0:
            empty = have[:, split, problem.cover] == 0
            found[:, place] = (empty & (left < 1)).sum(axis=1)
            left = left - empty
    return found


def deviation(problem: Problem, have: np.ndarray) -> np.ndarray:
    """(C,) int: weighted sum over the strata of the share that lies beyond what is asked, in millionths."""
    allowed = problem.parts[:, None] * problem.total + MILLION * problem.slack
    over = np.maximum(MILLION * have - allowed, 0) // np.maximum(problem.total, 1)
    return over.sum(axis=1) @ problem.weight


def cheapest(problem: Problem, have: np.ndarray) -> tuple[int, tuple[int, ...]]:
    """(number, cost) of the cheapest of C candidates (C, 3, J), the first of equal ones."""
    found = missing(problem, have)
    rows = np.arange(len(have))
    for column in found.T:
        rows = rows[column[rows] == column[rows].min()]
    costs = deviation(problem, have[rows])
    place = int(np.argmin(costs))
    return int(rows[place]), (*found[rows[place]].tolist(), int(costs[place]))


def counted(problem: Problem, splits: np.ndarray) -> np.ndarray:
    """Rows of each stratum in each split, (3, J), with units in `splits` (U,)."""
    members = problem.members
    return problem.base + np.stack([np.asarray(members[splits == s].sum(axis=0)).ravel() for s in range(3)])


def best_of_all(problem: Problem, start: np.ndarray) -> np.ndarray:
    """The best of all assignments, (U,); `start` if that is the best, or if there are too many to try.

    Equal units are interchangeable.
    """
    if problem.members.shape[0] * problem.members.shape[1] > BLOCK:
        return start
    members = problem.members.toarray()
    _, first, kind = np.unique(np.column_stack([members, problem.may]), axis=0, return_index=True, return_inverse=True)
    kind = kind.ravel()
    names = np.argsort(first, kind="stable")  # in the order of the units
    allowed = [[s for s in range(3) if problem.may[first[name], s]] for name in names]
    equal = [int((kind == name).sum()) for name in names]
    sizes = [comb(count + len(splits) - 1, count) for count, splits in zip(equal, allowed, strict=True)]
    number = prod(sizes)
    if number > MOST or number * 3 * members.shape[1] > WORK:
        return start
    options = [list(_dealt(count, splits)) for count, splits in zip(equal, allowed, strict=True)]
    half, made = 0, 1.0
    while half < len(sizes) and made * sizes[half] <= number**0.5 * 1.001:
        made *= sizes[half]
        half += 1
    if max(made, number / made) * 3 * members.shape[1] > 4 * BLOCK:  # most units are equal: moves and swaps do as well
        return start
    one, two = (list(product(*part)) for part in (options[:half], options[half:]))
    one_rows, two_rows = (
        _rows(part, [members[first[name]] for name in chosen], members.shape[1])
        for part, chosen in ((one, names[:half]), (two, names[half:]))
    )
    best, best_cost = None, cheapest(problem, counted(problem, start)[None])[1]
    if best_cost[:3] == _unavoidable(problem):  # then only a smaller deviation helps, and more rows never lower it
        one_fits, two_fits = (
            np.flatnonzero(deviation(problem, problem.base + rows) < best_cost[3]) for rows in (one_rows, two_rows)
        )
    else:
        one_fits, two_fits = np.arange(len(one)), np.arange(len(two))
    step = max(1, BLOCK // (3 * members.shape[1]))
    for number in one_fits:
        for begin in range(0, len(two_fits), step):
            part = two_fits[begin : begin + step]
            place, found = cheapest(problem, problem.base + one_rows[number] + two_rows[part])
            if found < best_cost:
                best, best_cost = (*one[number], *two[part[place]]), found
    if best is None:
        return start
    found = np.empty(len(members), int)
    for name, dealt in zip(names, best, strict=True):
        found[np.flatnonzero(kind == name)] = np.repeat(np.arange(3), dealt)
    return found


def _unavoidable(problem: Problem) -> tuple[int, int, int]:
    """Classes that are missing in train, test and calibration however the units are assigned, at least."""
    have = problem.base[:, problem.cover] > 0
    units = problem.fill[problem.cover] + np.asarray((problem.members > 0).sum(axis=0)).ravel()[problem.cover]
    found = []
    for split in PRIORITY:
        empty = ~have[split] if problem.parts[split] > 0 else np.zeros(len(units), bool)
        found.append(int((empty & (units < 1)).sum()))
        units = units - empty
    return tuple(found)


def _dealt(count: int, allowed: list[int]) -> Iterator[tuple[int, int, int]]:
    """All ways to deal `count` equal units to the splits `allowed`."""
    for train in range(count, -1, -1):
        for test in range(count - train, -1, -1):
            way = (train, count - train - test, test)
            if all(not way[s] or s in allowed for s in range(3)):
                yield way


def _rows(ways: list[tuple], members: list[np.ndarray], strata: int) -> np.ndarray:
    """(len(ways), 3, J) rows that each combination of dealt units adds."""
    found = np.zeros((len(ways), 3, strata), np.int64)
    for place, counts in enumerate(members):
        found += np.array([way[place] for way in ways])[:, :, None] * counts
    return found


def greedy(problem: Problem, shares: np.ndarray) -> np.ndarray:
    """A good assignment, (U,): the largest unit first, each to the split that lacks its rows most.

    Where a class has only as many units left as splits without it, the unit must go to one of those.
    """
    members = problem.members
    asked = [max(float(share), 1e-6) for share in shares]
    have = [row.tolist() for row in problem.base]
    total = problem.total.tolist()
    weight = (problem.weight / problem.weight.max()).tolist()
    cover = problem.cover.tolist()
    units_left = (problem.fill + np.asarray((members > 0).sum(axis=0)).ravel()).tolist()
    indptr, indices, data = members.indptr.tolist(), members.indices.tolist(), members.data.tolist()
    found = np.empty(members.shape[0], int)
    for unit in np.argsort(-members[:, [0]].toarray().ravel(), kind="stable").tolist():
        own = list(zip(indices[indptr[unit] : indptr[unit + 1]], data[indptr[unit] : indptr[unit + 1]], strict=True))
        forced = [0, 0, 0]
        for j, _ in own:
            if cover[j]:
                empty = [s for s in PRIORITY if not have[s][j] and problem.parts[s]]
                if len(empty) >= units_left[j]:
                    for s in range(3):
                        forced[s] += s not in empty[: units_left[j]]
                units_left[j] -= 1
        best = None
        for s in PRIORITY:
            if not problem.may[unit, s]:
                continue
            rise = 0.0
            for j, count in own:
                rise += weight[j] * count * (count + 2 * (have[s][j] - asked[s] * total[j])) / total[j] ** 2
            key = (forced[s], rise / asked[s])
            if best is None or key < best[0]:
                best = (key, s)
        split = best[1]
        found[unit] = split
        for j, count in own:
            have[split][j] += count
    return found


def improved(problem: Problem, splits: np.ndarray) -> np.ndarray:
    """`splits` (U,) after the moves of one unit, or else swaps of two, that lower the cost most, until none does."""
    units, strata = problem.members.shape
    if units * strata > BLOCK:
        return splits
    members, splits = problem.members.toarray(), splits.copy()
    have = counted(problem, splits)
    now = cheapest(problem, have[None])[1]
    pairs = np.argwhere(np.tri(units, k=-1)) if units <= SWAPPED else np.empty((0, 2), int)
    step, budget = max(1, BLOCK // (3 * strata)), WORK // 4
    while budget > 0:
        best, best_cost = None, now
        for kind in ("move", "swap"):
            changes = _moves(problem, splits) if kind == "move" else _swaps(problem, splits, pairs)
            for start in range(0, len(changes), step):
                part = changes[start : start + step]
                place, found = cheapest(problem, have + _changed(members, splits, part))
                budget -= 3 * strata * len(part)
                if found < best_cost:
                    best, best_cost = part[place], found
            if best is not None:
                break  # swaps only where no move helps
        if best is None:
            break
        for unit, split in best:
            splits[unit] = split
        have, now = counted(problem, splits), best_cost
    return splits


def _moves(problem: Problem, splits: np.ndarray) -> np.ndarray:
    """(C, 1, 2): each unit with each other split that it may go to."""
    return np.argwhere(problem.may & (np.arange(3) != splits[:, None]))[:, None]


def _swaps(problem: Problem, splits: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """(C, 2, 2): each pair of units in two splits with the other's split."""
    a, b = pairs.T
    fits = (splits[a] != splits[b]) & problem.may[a, splits[b]] & problem.may[b, splits[a]]
    a, b = pairs[fits].T
    return np.stack([np.column_stack([a, splits[b]]), np.column_stack([b, splits[a]])], axis=1)


def _changed(members: np.ndarray, splits: np.ndarray, changes: np.ndarray) -> np.ndarray:
    """(C, 3, J) change of rows by each of C changes, which are lists of (unit, split)."""
    found = np.zeros((len(changes), 3, members.shape[1]), np.int64)
    here = np.arange(len(changes))
    for unit, to in changes.transpose(1, 2, 0):
        found[here, splits[unit]] -= members[unit]
        found[here, to] += members[unit]
    return found
