"""Pick unlabelled images for labelling: the best of a method within budget and quotas."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tasks.active.methods import ALONE, COLD, FAVOUR, METHODS, ranks, unit
from tasks.active.pool import Limits, Pool, source_quota

UNFAMILIAR = 3  # every third pick is an unfamiliar image, where familiarity is known
REASONS = {"random": "random", "typiclust": "typical"}  # of picks by a method; of the others: "uncertain"
ROWS = 5_000  # images that are compared with one another; a random sample of larger pools


class Picked(NamedTuple):
    """One pick: the row of the pool and why it was picked."""

    row: int
    why: str  # "uncertain" | "unfamiliar" | "typical" | "random"


def pick(
    pool: Pool,
    budget: int,
    method: str,
    *,
    max_source_share: float = 1.0,
    seen: Sequence[int] = (),
    seed: int = 0,
) -> list[Picked]:
    """Up to `budget` images whose labels teach most, best first.

    method: a name of METHODS. Without probabilities (no model, no labels) it is "typiclust", unless "random" is asked
    for. No source gives more than `max_source_share` of the budget, or an equal part if there are few sources.
    Near-duplicates of picks and of `seen` (perceptual hashes) are left out. The same input gives the same picks.
    """
    if method not in METHODS:
        raise ValueError(f"method {method!r}: expected one of {', '.join(METHODS)}")
    if not len(pool) or budget <= 0:
        return []
    if pool.probabilities is None and method not in COLD:
        method = "typiclust"
    rng = np.random.default_rng(seed)
    limits, why = Limits(pool, source_quota(pool, budget, max_source_share), seen), {}
    if pool.unfamiliar is not None and method != "random":
        _take_unfamiliar(limits, budget // UNFAMILIAR)
        why = dict.fromkeys(limits.taken, "unfamiliar")
    while len(limits.taken) < budget and limits.open.any():
        here = np.flatnonzero(limits.open)
        if method not in ALONE and len(here) > max(ROWS, budget):
            here = np.sort(rng.choice(here, max(ROWS, budget), replace=False))
        before = pool.rows(np.array(limits.taken, int))
        for row in here[METHODS[method](pool.rows(here), budget - len(limits.taken), rng, before)]:
            if len(limits.taken) < budget and limits.open[row]:
                limits.take(int(row))
                why[int(row)] = REASONS.get(method, "uncertain")
    strange = [row for row in limits.taken if why[row] == "unfamiliar"]
    return [Picked(row, why[row]) for row in _interleaved(limits.taken[len(strange) :], strange)]


def _take_unfamiliar(limits: Limits, count: int) -> None:
    """Take up to `count` open rows, greedily of the largest rank^4 of unfamiliarity times distance to the picks."""
    score, x = ranks(limits.pool.unfamiliar) ** FAVOUR, unit(limits.pool.features)
    nearest = np.full(len(x), 2.0)
    while len(limits.taken) < count and limits.open.any():
        row = int(np.argmax(np.where(limits.open, score * (nearest + 1e-6), -1.0)))
        limits.take(row)
        nearest = np.minimum(nearest, np.maximum(2 - 2 * x @ x[row], 0))


def _interleaved(rows: list[int], strange: list[int]) -> list[int]:
    """UNFAMILIAR - 1 of `rows`, then one of `strange`, and so on; what is left of one of them at the end."""
    out, rows, strange = [], list(rows), list(strange)
    while rows or strange:
        out += rows[: UNFAMILIAR - 1] + strange[:1]
        rows, strange = rows[UNFAMILIAR - 1 :], strange[1:]
    return out
