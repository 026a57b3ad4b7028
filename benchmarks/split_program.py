"""The best assignment of whole groups to splits, by integer programming (HiGHS): the peer of benchmarks.splits."""

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from scipy.optimize import Bounds, LinearConstraint, milp

from tasks.common.sections.data import SplitFractions

FRACTIONS = SplitFractions()
SHARES = np.array([FRACTIONS.train, FRACTIONS.calibration, FRACTIONS.test])
PRIORITY = (0, 2, 1)  # train, test, calibration


@dataclass(frozen=True)
class Best:
    """The best assignment by integer programming."""

    missing: tuple[int, int, int]
    share_error: float
    deviation: float


class Program:
    """Assign U groups to 3 splits; the variables are x (U, 3), z (3, K) missing, and those that `more` adds."""

    def __init__(self, counts: np.ndarray, recorded: np.ndarray):
        self.counts, self.recorded = counts, recorded
        self.groups, self.classes = counts.shape
        self.fixed: list[tuple[np.ndarray, float, float]] = []  # (row over x and z, low, high)
        size = 3 * (self.groups + self.classes)
        for group in range(self.groups):
            row = np.zeros(size)
            row[3 * group : 3 * group + 3] = 1
            self.fixed.append((row, 1, 1))
        for s in range(3):
            for k in range(self.classes):
                if not recorded[s, k]:
                    row = np.zeros(size)
                    row[s : 3 * self.groups : 3] = counts[:, k] > 0
                    row[self.z(s, k)] = 1
                    self.fixed.append((row, 1, np.inf))

    def z(self, split: int, number: int) -> int:
        return 3 * self.groups + split * self.classes + number

    def rows_in(self, split: int, weights: np.ndarray) -> np.ndarray:
        """The sum of `weights` (U,) over the groups in `split`, as a row over x and z."""
        row = np.zeros(3 * (self.groups + self.classes))
        row[split : 3 * self.groups : 3] = weights
        return row

    def least(self, costs: np.ndarray, more: list[tuple[np.ndarray, np.ndarray, float]]) -> tuple[float, np.ndarray]:
        """(value, x and z) of the smallest `costs`, over x, z and further variables >= 0.

        more: (row over x and z, row over the further variables, upper bound).
        """
        size, extra = 3 * (self.groups + self.classes), len(costs) - 3 * (self.groups + self.classes)
        rows = [np.concatenate([row, np.zeros(extra)]) for row, _, _ in self.fixed]
        rows += [np.concatenate([row, of_more]) for row, of_more, _ in more]
        low = [bound for _, bound, _ in self.fixed] + [-np.inf] * len(more)
        high = [bound for _, _, bound in self.fixed] + [bound for _, _, bound in more]
        for presolve in (True, False):  # HiGHS's presolve fails on a few programs ("Solve error")
            found = milp(
                costs,
                constraints=LinearConstraint(sp.csr_matrix(np.stack(rows)), low, high),
                integrality=np.concatenate([np.ones(size), np.zeros(extra)]),
                bounds=Bounds(0, np.concatenate([np.ones(size), np.full(extra, np.inf)])),
                options={"mip_rel_gap": 0, "presolve": presolve},
            )
            if found.success:
                break
        return float(found.fun), found.x

    def best(self) -> Best:
        """The fewest missing classes; then, each for itself, the smallest share error and the smallest deviation."""
        size = 3 * (self.groups + self.classes)
        absent = []
        for s in PRIORITY:
            row = np.zeros(size)
            row[[self.z(s, k) for k in range(self.classes) if not self.recorded[s, k]]] = 1
            value, _ = self.least(row, [])
            absent.append(round(value))
            self.fixed.append((row, 0, absent[-1] + 0.5))  # half: whole numbers, up to the solver's tolerance
        total = self.recorded.sum() + self.counts.sum()
        rows = self.counts.sum(axis=1) / total
        more = []
        for s in range(3):
            gap = SHARES[s] - self.recorded[s].sum() / total
            more.append((self.rows_in(s, rows), np.array([-1.0]), gap))
            more.append((-self.rows_in(s, rows), np.array([-1.0]), -gap))
        error, _ = self.least(np.append(np.zeros(size), 1.0), more)
        value, _ = self.least(*self._of_deviation(size))
        return Best(tuple(absent), error, value)

    def _of_deviation(self, size: int) -> tuple[np.ndarray, list]:
        """Costs and constraints of the deviation: rows, classes, the rows of this ingest with its slack."""
        strata = [(self.counts.sum(axis=1), self.recorded.sum(axis=1), 0.0, 5.0)]
        strata += [(self.counts[:, k], self.recorded[:, k], 0.0, 1 / self.classes) for k in range(self.classes)]
        largest = float(self.counts.sum(axis=1).max())
        strata.append((self.counts.sum(axis=1), np.zeros(3), largest, 1.0))
        costs, more = np.concatenate([np.zeros(size), np.zeros(3 * len(strata))]), []
        for number, (new, old, slack, weight) in enumerate(strata):
            total = new.sum() + old.sum()
            for s in range(3):
                own = np.zeros(3 * len(strata))
                own[3 * number + s] = -1
                costs[size + 3 * number + s] = weight
                more.append((self.rows_in(s, new / total), own, SHARES[s] + (slack - old[s]) / total))
        return costs, more
