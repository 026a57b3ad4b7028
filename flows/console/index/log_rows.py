"""Answers of the production log in the index, each with its window and the label that came later."""

import sqlite3
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flows.console.index.data_rows import removed
from flows.console.index.database import Codes, bump, meta, set_meta, transaction
from flows.console.index.facets import EXCLUDED, IN_USE, LOGGED, confidence_band, label_text, ood_band
from flows.console.index.windows import count_sources, of_another, window_order
from monitoring.log.parquet_files import UNREADABLE, open_parquet, open_seekable, read_columns
from monitoring.log.production_log import Log, majority_labels
from tasks.common.files import content_key
from tasks.labels.taxonomy import Taxonomy

COLUMNS = ("id", "at", "source", "key", "path", "version", "bundle", "prediction", "confidence", "ood")
BLOCK = 50  # files of one transaction
Late = Callable[[], bool]
Threshold = Callable[[str | None], float | None]  # of a bundle's out-of-distribution score


def fill_answers(db: sqlite3.Connection, log: Log, threshold: Threshold, late: Late) -> bool:
    """Rows for the log's files that are new, the newest first; False if `late()` said stop before the end."""
    listed = list(log.answer_keys())
    known = dict(db.execute("SELECT name, number FROM files WHERE kind = 'log'").fetchall())
    if gone := known.keys() - set(listed):
        _remove(db, sorted(known[name] for name in gone))
    wanted = [key for key in reversed(listed) if key not in known]
    limits: dict[str | None, float | None] = {}
    for start in range(0, len(wanted), BLOCK):
        if late():
            return False
        part = [(key, _read(log, key)) for key in wanted[start : start + BLOCK]]
        with transaction(db):
            codes, generation, order = Codes(db), bump(db), _Windows(db)
            for key, table in part:
                _add(db, codes, generation, order, key, table, limits, threshold)
            count_sources(db, sorted(order.touched))
            set_meta(db, "late_labels", "")
    return True


def _read(log: Log, key: str) -> pa.Table | None:
    """The columns of one file; None if it cannot be read: it counts as one without rows."""
    schema = pa.schema([field for field in log.schema if field.name in COLUMNS])
    try:
        with open_seekable(log.store, key) as file:
            return None if file is None else read_columns(open_parquet(file, log.schema), schema)
    except UNREADABLE:
        return None


def _add(db, codes: Codes, generation: int, order: "_Windows", key: str, table, limits: dict, threshold) -> None:
    count = 0 if table is None else len(table)
    file = db.execute("INSERT INTO files (name, kind, rows) VALUES (?, 'log', ?)", (key, count)).lastrowid
    if not count:
        return
    at = table["at"].cast(pa.int64()).to_numpy()
    values = {name: table[name].to_pylist() for name in COLUMNS}
    windows = order.of(at, values["version"])
    rows = []
    for place in range(count):
        row = {name: column[place] for name, column in values.items()}
        if row["bundle"] not in limits:
            limits[row["bundle"]] = threshold(row["bundle"])
        band = ood_band(row["ood"], limits[row["bundle"]])
        rows.append(
            (
                row["id"], file, place, int(at[place]), row["key"], row["path"], row["confidence"], row["ood"],
                generation,
                codes("origin", LOGGED), codes("window", windows[place]), codes("source", row["source"]),
                codes("version", row["version"]), codes("predicted", label_text(row["prediction"])),
                codes("confidence", confidence_band(row["confidence"])), codes("ood", band), codes("state", IN_USE),
            )
        )  # fmt: skip
    db.executemany(
        "INSERT INTO images (id, logged, file, place, at, key, path, confidence, ood, changed, f_origin, f_window, "
        "f_source, f_version, f_predicted, f_confidence, f_ood, f_state) VALUES (?, 1, " + ", ".join("?" * 16) + ")",
        rows,
    )


def _remove(db: sqlite3.Connection, files: list[int]) -> None:
    """Rows of files that retention or an erasure deleted."""
    with transaction(db):
        for number in files:
            db.execute("DELETE FROM images WHERE file = ?", (number,))
            db.execute("DELETE FROM files WHERE number = ?", (number,))
        removed(db)


class _Windows:
    """Which window an answer belongs to."""

    def __init__(self, db: sqlite3.Connection):
        self._order = window_order(db)
        self._starts = np.array([start for start, *_ in self._order], np.int64)
        self.touched: set[str] = set()

    def of(self, at: np.ndarray, versions: Sequence[str | None]) -> list[str | None]:
        """The window of each of N answers, from their times and versions."""
        found = []
        places = np.searchsorted(self._starts, at, side="right") - 1
        for place, time, version in zip(places, at.tolist(), versions, strict=True):
            inside = place >= 0 and time < self._order[place][1] and not of_another(version, self._order[place][3])
            found.append(self._order[place][2] if inside else None)
        self.touched |= {name for name in found if name}
        return found


def fill_late_labels(db: sqlite3.Connection, log: Log, taxonomy: Taxonomy) -> None:
    """The label that people gave answers since."""
    keys = log.label_keys()
    key = content_key(sorted(keys), sorted((name, sorted(atoms)) for name, atoms in taxonomy.meaning.items()))
    if meta(db, "late_labels") == key:
        return
    labels = log.labels(keys=keys)
    named = majority_labels(labels, taxonomy)
    true = dict(zip(named["id"].to_pylist(), named["label"].to_pylist(), strict=True))
    excluded = set(pc.unique(labels["id"]).to_pylist()) - true.keys() if len(labels) else set()
    with transaction(db):
        codes, generation = Codes(db), bump(db)
        before = db.execute("SELECT row, id, f_true, f_state FROM images WHERE logged = 1").fetchall()
        new = []
        for row, id_, was, state in before:
            word = EXCLUDED if id_ in excluded else IN_USE
            now = (codes("true", label_text(true.get(id_))), codes("state", word))
            if now != (was, state):
                new.append((*now, generation, row))
        db.executemany("UPDATE images SET f_true = ?, f_state = ?, changed = ? WHERE row = ?", new)
        set_meta(db, "late_labels", key)
