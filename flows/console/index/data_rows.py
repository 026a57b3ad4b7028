"""The images of data/ in the index, with the label that counts and what a model says of each."""

import csv
import json
import sqlite3
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from flows.console.index.database import Codes, bump, meta, set_meta, transaction
from flows.console.index.facets import EXCLUDED, IN_USE, TOMBSTONED, confidence_band, label_text
from flows.console.index.windows import micros
from flows.labels.stones import tombstones_now
from flows.repo.label_issues import newest_issues
from tasks.common.files import content_key
from tasks.common.params import Params
from tasks.common.schemas import label_type
from tasks.dataset.annotation_files import annotation_batches
from tasks.dataset.hard_set import change_files
from tasks.dataset.shards import batches, read_columns, read_image_paths, read_task, shard_groups
from tasks.labels.annotations import decide_all, read_annotations, replaced
from tasks.labels.reading import read_column
from tasks.labels.taxonomy import read_taxonomy

COLUMNS = ("id", "key", "label", "source", "taken_at", "origin", "batch", "split")
Late = Callable[[], bool]


@dataclass(frozen=True)
class Counted:
    """What counts for data/ now, besides its shards; `key` changes with any of it."""

    tombstones: dict
    key: str


def counted(root: Path, params: Params) -> Counted:
    """The annotations, tombstones and names of classes that decide labels now, by their names alone."""
    data, stones = root / "data", tombstones_now(root, params)
    said = [(one.seq, one.batch, one.files) for one in annotation_batches(data)]
    said += [(one.seq, one.batch, one.annotations, one.shards) for one in batches(data)]
    names = {
        str(file.relative_to(data)): file.stat().st_mtime_ns
        for file in sorted(data.glob("annotations/taxonomy/*.json"))
    }
    return Counted(stones, content_key(said, sorted(stones), names, params.labels.consensus))


def fill_shards(db: sqlite3.Connection, root: Path, late: Late) -> bool:
    """Rows for the shards that are new; all again if one is gone. False if `late()` said stop before the end."""
    data = root / "data"
    listed = {name: batch.batch for batch in batches(data) for name in batch.shards} if _is_there(data) else {}
    known = {name for (name,) in db.execute("SELECT name FROM files WHERE kind = 'shard'")}
    if known - set(listed):  # an erasure rewrote shards; of an image in two shards only one has a row
        with transaction(db):
            db.execute("DELETE FROM images WHERE logged = 0")
            db.execute("DELETE FROM files WHERE kind = 'shard'")
            for name in ("labels", "predictions", "issues"):
                set_meta(db, name, "")
            removed(db)
        known = set()
    for name in listed:
        if name in known or not (data / name).is_file():
            continue
        if late():
            return False
        _add_shard(db, root, name)
    return True


def _add_shard(db: sqlite3.Connection, root: Path, name: str) -> None:
    path = root / "data" / name
    table = read_columns(path, COLUMNS)
    count = len(table)
    places = pa.table({"shard": [name] * count, "row": range(count)})
    groups, paths = shard_groups(path).to_pylist(), read_image_paths(root, places)
    rows = zip(*(table[column].to_pylist() for column in COLUMNS), groups, paths, strict=True)
    with transaction(db):
        codes, generation = Codes(db), bump(db)
        file = db.execute("INSERT INTO files (name, kind, rows) VALUES (?, 'shard', ?)", (name, count)).lastrowid
        db.executemany(
            'INSERT OR IGNORE INTO images (id, logged, file, place, at, key, path, "group", given, changed, f_origin, '
            "f_source, f_batch, f_split, f_state) VALUES (?, 0, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                (
                    id_, file, place, taken and micros(taken), key, called, group, json.dumps(label), generation,
                    codes("origin", origin), codes("source", source), codes("batch", batch), codes("split", split),
                    codes("state", IN_USE),
                )
                for place, (id_, key, label, source, taken, origin, batch, split, group, called) in enumerate(rows)
            ),
        )  # fmt: skip
        set_meta(db, "labels", "")
        set_meta(db, "predictions", "")


def fill_splits(db: sqlite3.Connection, root: Path) -> None:
    """The splits of today, where people changed the hard set since."""
    data = root / "data"
    changes, before = [file.name for file in change_files(data)], meta(db, "splits", "")
    if not changes and not before:  # the split that came with the shard stands
        return
    key = content_key(changes, [one.shards for one in batches(data)])
    if before == key:
        return
    now: dict[str, str | None] = {}
    for name in {name for batch in batches(data) for name in batch.shards}:
        table = read_columns(data / name, ["id", "split"])
        now |= dict(zip(table["id"].to_pylist(), table["split"].to_pylist(), strict=True))
    with transaction(db):
        codes, generation = Codes(db), bump(db)
        rows = db.execute("SELECT row, id, f_split FROM images WHERE logged = 0").fetchall()
        found = [(codes("split", now[id_]), was, row) for row, id_, was in rows if id_ in now]
        new = [(code, generation, row) for code, was, row in found if code != was]
        db.executemany("UPDATE images SET f_split = ?, changed = ? WHERE row = ?", new)
        set_meta(db, "splits", key)


def fill_labels(db: sqlite3.Connection, root: Path, params: Params, now: Counted) -> None:
    """The label that counts, and whether a row is excluded or its batch tombstoned, where anything changed."""
    data = root / "data"
    if meta(db, "labels") == now.key or not _is_there(data):
        return
    rows = db.execute(
        "SELECT row, id, given, f_true, f_state, n.value FROM images "
        "LEFT JOIN names n ON n.facet = 'batch' AND n.code = f_batch WHERE logged = 0"
    ).fetchall()
    ids = pa.chunked_array([pa.array([row[1] for row in rows], pa.string())])
    first = pa.chunked_array([pa.array([json.loads(row[2]) for row in rows], label_type(read_task(data)))])
    taxonomy = read_taxonomy(data)
    decisions = decide_all(ids, first, read_annotations(data, now.tombstones), taxonomy, params.labels.consensus)
    labels = replaced(read_column(first, taxonomy), decisions).to_pylist()
    with transaction(db):
        codes, generation = Codes(db), bump(db)
        changed = []
        for place, (row, _, _, true, state, batch) in enumerate(rows):
            decision = decisions.get(place)
            word = TOMBSTONED if batch in now.tombstones else EXCLUDED if decision and decision.excluded else IN_USE
            new = (codes("true", label_text(labels[place])), codes("state", word))
            if new != (true, state):
                changed.append((*new, generation, row))
        db.executemany("UPDATE images SET f_true = ?, f_state = ?, changed = ? WHERE row = ?", changed)
        set_meta(db, "labels", now.key)


def fill_issues(db: sqlite3.Connection, root: Path, now: Counted) -> None:
    """Which labels wait in the newest run's queue of issues and had no person's word since."""
    kept = newest_issues(root)
    key = content_key(str(kept.table), kept.table.stat().st_mtime_ns, now.key) if kept else "none"
    if meta(db, "issues") == key or not _is_there(root / "data"):
        return
    ids: set[str] = set()
    if kept:
        with open(kept.table, encoding="utf-8", newline="") as file:
            ids = {row["id"] for row in csv.DictReader(file) if row.get("id")}
        said = read_annotations(root / "data", now.tombstones).select(["id", "role", "seq"]).to_pylist()
        ids -= {row["id"] for row in said if row["role"] != "import" and (kept.seq is None or row["seq"] > kept.seq)}
    with transaction(db):
        codes, generation = Codes(db), bump(db)
        yes, no = codes("issue", "yes"), codes("issue", "no")
        rows = db.execute("SELECT row, id, f_issue FROM images WHERE logged = 0").fetchall()
        new = [(code, generation, row) for row, id_, was in rows if (code := yes if id_ in ids else no) != was]
        db.executemany("UPDATE images SET f_issue = ?, changed = ? WHERE row = ?", new)
        set_meta(db, "issues", key)


@dataclass(frozen=True)
class Opinion:
    """What a model says of one image of data/."""

    predicted: str | None
    confidence: float | None
    ood: float | None = None
    band: str | None = None  # of the out-of-distribution score
    probabilities: bytes | None = None  # (K,) float32


def fill_predictions(
    db: sqlite3.Connection, key: str, version: str, classes: Iterable[str], opinions: Mapping[str, Opinion]
) -> None:
    """Store what the model `version` says of the images of data/, by id. `key` names the source."""
    with transaction(db):
        codes, generation = Codes(db), bump(db)
        rows = db.execute("SELECT row, id FROM images WHERE logged = 0").fetchall()
        nothing, named = Opinion(None, None), codes("version", version)
        new = []
        for row, id_ in rows:
            one = opinions.get(id_, nothing)
            facets = (codes("predicted", one.predicted), codes("confidence", confidence_band(one.confidence)))
            of = named if one is not nothing else 0
            new.append((*facets, codes("ood", one.band), of, one.confidence, one.ood, generation, row))
        db.executemany(
            "UPDATE images SET f_predicted = ?, f_confidence = ?, f_ood = ?, f_version = ?, confidence = ?, ood = ?, "
            "changed = ? WHERE row = ?",
            new,
        )
        db.execute("DELETE FROM probabilities")
        db.executemany(
            "INSERT INTO probabilities VALUES (?, ?)",
            ((id_, one.probabilities) for id_, one in opinions.items() if one.probabilities is not None),
        )
        set_meta(db, "classes", json.dumps(list(classes)))
        set_meta(db, "predictions", key)


def removed(db: sqlite3.Connection) -> None:
    """Note that rows were deleted: what processes hold in memory is read again as a whole."""
    set_meta(db, "removals", str(int(meta(db, "removals", "0")) + 1))
    bump(db)


def floats(values: np.ndarray) -> bytes:
    """(K,) probabilities as the table stores them."""
    return np.ascontiguousarray(values, np.float32).tobytes()


def _is_there(data: Path) -> bool:
    return (data / "dataset.json").is_file()
