"""Facets and sort keys of all rows in memory: filters, counts and pages take milliseconds.

N rows. A process reads the columns once (100,000 rows: 10 MB) and afterwards only what a refresh changed.
"""

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from flows.console.index.database import meta
from flows.console.index.facets import FACETS, SORTS

SQL = f"SELECT row, file, at, confidence, ood, {', '.join(f'f_{name}' for name in FACETS)} FROM images"
KEYS = {"newest": ("at", True), "oldest": ("at", False), "most-confident": ("confidence", True)}
KEYS |= {"least-confident": ("confidence", False), "unfamiliar": ("ood", True), "familiar": ("ood", False)}
assert KEYS.keys() == SORTS.keys()

Filters = Mapping[str, Sequence[str | None]]  # facet -> values, one of which a row must have; None: no value


@dataclass(frozen=True)
class Columns:
    """One generation of the rows; never changed, so threads may share it."""

    generation: int
    removals: int
    row: np.ndarray  # (N,) int64, ascending
    file: np.ndarray  # (N,) int32, number of the shard or of the log's file
    measured: dict[str, np.ndarray]  # "at", "confidence", "ood" -> (N,) float64, NaN where unknown
    codes: dict[str, np.ndarray]  # facet -> (N,) int32
    names: dict[str, list[str | None]]  # facet -> value by code; [0] is None

    def failed(self, filters: Filters) -> dict[str, np.ndarray]:
        """Facet -> (N,) bool: the rows that do not have one of its values."""
        found = {}
        for facet, values in filters.items():
            known = self.names[facet]
            wanted = np.zeros(len(known), bool)
            wanted[[known.index(value) for value in values if value in known]] = True
            found[facet] = ~wanted[self.codes[facet]]
        return found

    def fitting(self, filters: Filters) -> np.ndarray:
        """(N,) bool: the rows that fit all `filters`."""
        return ~np.any([np.zeros(len(self.row), bool), *self.failed(filters).values()], axis=0)

    def counts(self, filters: Filters) -> tuple[int, dict[str, list[tuple[str | None, int]]]]:
        """(rows that fit, facet -> [(value, rows)], most rows first).

        A facet is counted without the filter on itself, so that a person sees what else there is.
        """
        failed = self.failed(filters)
        fails = np.sum([np.zeros(len(self.row), np.uint8), *failed.values()], axis=0, dtype=np.uint8)
        good = fails == 0
        found = {}
        for facet, names in self.names.items():
            rows = good if facet not in failed else good | ((fails == 1) & failed[facet])
            counted = np.bincount(self.codes[facet][rows], minlength=len(names))
            order = np.argsort(-counted, kind="stable")
            found[facet] = [(names[code], int(counted[code])) for code in order[: np.count_nonzero(counted)].tolist()]
        return int(good.sum()), found

    def page(self, filters: Filters, sort: str, after: int | None, most: int) -> list[int]:
        """Numbers of the rows after row `after` in the order `sort`, at most `most`."""
        good = self.fitting(filters)
        key = self._key(sort)
        if after is not None and (place := self._place(after)) is not None:
            good &= (key > key[place]) | ((key == key[place]) & (self.row > after))
        rows = np.flatnonzero(good)
        if len(rows) > most:
            values = key[rows]
            last = np.partition(values, most - 1)[most - 1]
            better, same = rows[values < last], rows[values == last]
            rows = np.concatenate([better, same[: most - len(better)]])
        return self.row[rows[np.lexsort((rows, key[rows]))]].tolist()

    def all_rows(self, filters: Filters) -> list[int]:
        """Numbers of all rows that fit."""
        return self.row[self.fitting(filters)].tolist()

    def _key(self, sort: str) -> np.ndarray:
        """(N,) float64: ascending is the order; rows without the value come last."""
        name, descending = KEYS[sort]
        values = self.measured[name]
        return np.where(np.isnan(values), np.inf, -values if descending else values)

    def _place(self, row: int) -> int | None:
        place = int(np.searchsorted(self.row, row))
        return place if place < len(self.row) and self.row[place] == row else None


def load_columns(db: sqlite3.Connection, before: Columns | None) -> Columns:
    """The columns as the file has them now; `before` itself if nothing changed since."""
    db.execute("BEGIN")  # one state of the file for all reads
    try:
        generation, removals = int(meta(db, "generation", "0")), int(meta(db, "removals", "0"))
        if before is not None and (before.generation, before.removals) == (generation, removals):
            return before
        names: dict[str, list[str | None]] = {facet: [None] for facet in FACETS}
        for facet, value in db.execute("SELECT facet, value FROM names ORDER BY facet, code"):
            names[facet].append(value)
        if before is not None and before.removals == removals and before.generation < generation:
            since = before
        else:
            since = None
        sql = f"{SQL} WHERE changed > ? ORDER BY row" if since else f"{SQL} ORDER BY row"
        found = db.execute(sql, (since.generation,) if since else ()).fetchall()
    finally:
        db.execute("COMMIT")
    table = np.array(found, dtype=np.float64) if found else np.empty((0, 5 + len(FACETS)))  # None becomes NaN
    if since is not None:
        table = _merged(_table(since), table)
    row, file = table[:, 0].astype(np.int64), table[:, 1].astype(np.int32)
    measured = dict(zip(("at", "confidence", "ood"), table[:, 2:5].T.copy(), strict=True))
    codes = {facet: table[:, 5 + number].astype(np.int32) for number, facet in enumerate(FACETS)}
    return Columns(generation, removals, row, file, measured, codes, names)


def _table(columns: Columns) -> np.ndarray:
    return np.column_stack([columns.row, columns.file, *columns.measured.values(), *columns.codes.values()])


def _merged(old: np.ndarray, new: np.ndarray) -> np.ndarray:
    """The rows of both, by number; those of `new` replace others."""
    kept = old[~np.isin(old[:, 0], new[:, 0])]
    both = np.concatenate([kept, new])
    return both[np.argsort(both[:, 0], kind="stable")]
