"""The production log: all answers of the models, and late labels, in one blob store.

    2026-11-21/14/<hash>-<bytes>.parquet   answers requested in that hour (UTC): schema.log_schema
    labels/<hash>-<bytes>.parquet          late labels as they came: schema.late_labels_schema

Files are written once and never changed, so writers need no lock. A reader skips a file that is damaged (its sha256 is
not that of its name) or has another schema, and lists its key. The number in a name is the file's size, so retention
opens no file. Earlier files of labels have no size in their names; their pages have checksums.
The cost of reading a window depends only on that window: other hours are not listed, and other columns are not read. Of
rows beyond `limit`, only id and time are read. N is the number of rows.
"""

import io
import logging
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from monitoring.log.parquet_files import (
    UNREADABLE,
    open_parquet,
    open_seekable,
    parquet_bytes,
    read_columns,
    rows_in_time,
    take_rows,
)
from monitoring.log.schema import late_labels_schema, log_schema
from tasks.common.files import sha256_bytes
from tasks.common.params import Params, StoreParams
from tasks.labels.names import candidates
from tasks.labels.reading import read_column
from tasks.labels.taxonomy import UNCHANGED, Taxonomy
from tasks.storage.blobs import Store

HOUR = timedelta(hours=1)
KEY = re.compile(r"(\d{4}-\d{2}-\d{2})/(\d{2})/[^/]+")
SIZED = re.compile(r"-(\d+)\.parquet$")
FAR_DAYS = 62  # for longer windows, one listing replaces one per day

logger = logging.getLogger("evergreen.log")


def open_log(root: Path, params: Params) -> "Log":
    """The log at capture.url: a folder, relative to the main checkout of `root`, or s3://bucket/prefix."""
    return open_at(params.capture.url, root, params.store, params.data.task)


def open_at(url: str, root: Path, store: StoreParams, task: str) -> "Log":
    """The log at `url`; a relative folder is inside the main checkout of `root`. store: S3 settings."""
    from tasks.storage.places import open_blobs

    return Log(open_blobs(url, root, store=store), task)


class Log:
    """The production log in `store`. Processes and threads may append and read at the same time."""

    def __init__(self, store: Store, task: str):
        self.store, self.task = store, task
        self.schema = log_schema(task)

    # answers

    def append(self, table: pa.Table) -> list[str]:
        """Write answers (log_schema; `at` set in each row), one file per hour; returns the keys.

        Files are named by their content. After an error it is safe to append the same table again: nothing is stored
        twice.
        """
        if table.schema.names != self.schema.names or table["at"].null_count:
            raise ValueError(f"expected columns {self.schema.names} with `at` set, found {table.schema.names}")
        keys = []
        hours = pc.floor_temporal(table["at"], unit="hour")
        for hour in pc.unique(hours).to_pylist():
            content = parquet_bytes(table.filter(pc.equal(hours, hour)).cast(self.schema))
            keys.append(f"{hour:%Y-%m-%d/%H}/{sha256_bytes(content)[:32]}-{len(content)}.parquet")
            self.store.create(keys[-1], content)
        return keys

    def window(
        self,
        start: datetime,
        end: datetime,
        columns: Sequence[str] | None = None,
        limit: int | None = None,
        seed: int = 0,
        bundle: str | None = None,
    ) -> tuple[pa.Table, list[str], int]:
        """(answers requested in [start, end), unreadable keys, N before sampling), by time and id.

        columns: to read (None: all). limit: maximum number of rows; the random sample depends only on the rows and
        `seed`. bundle: only answers of the model with this manifest digest. Raises what the store raises.
        """
        names = list(columns) if columns is not None else self.schema.names
        wanted = self._columns(names)
        unreadable, total = [], 0
        kept = wanted.empty_table()
        draws = np.empty(0, np.uint64)  # one per kept row; the rows with the smallest draws are the sample
        for key in self._keys(start, end):
            try:
                with open_seekable(self.store, key) as file:
                    if file is None:  # removed by retention after it was listed
                        continue
                    parquet = open_parquet(file, self.schema)
                    rows = rows_in_time(parquet, start, end, bundle)
                    drawn = _draw(rows, seed)
                    if limit is not None and len(draws) >= limit:
                        good = drawn < np.partition(draws, limit - 1)[limit - 1]
                    elif limit is not None and len(drawn) > limit:
                        good = drawn <= np.partition(drawn, limit - 1)[limit - 1]
                    else:
                        good = np.ones(len(drawn), bool)
                    found = take_rows(parquet, rows["row"].to_numpy()[good], wanted)
            except UNREADABLE as error:
                logger.warning("%s in the production log is skipped: %s", key, error)
                unreadable.append(key)
                continue
            total += len(rows)
            kept, draws = pa.concat_tables([kept, found]), np.concatenate([draws, drawn[good]])
            if limit is not None and len(kept) > 2 * limit:
                kept, draws = _smallest(kept, draws, limit)
        if limit is not None and len(kept) > limit:
            kept, draws = _smallest(kept, draws, limit)
        return kept.sort_by([("at", "ascending"), ("id", "ascending")]).select(names), unreadable, total

    def last_at(self, now: datetime | None = None) -> datetime | None:
        """When the newest answer was requested; None if the log is empty.

        Times after `now` do not count: one camera with a wrong clock must not hide that all others are silent.
        """
        now = now or datetime.now(UTC)
        near = sorted(self._keys(now - timedelta(days=2), now), reverse=True)
        return self._newest(near, now) or self._newest(reversed(list(self._all())), now)

    def find(
        self, ids: Iterable[str], start: datetime, end: datetime, columns: Sequence[str], bundle: str | None = None
    ) -> pa.Table:
        """`columns` of the newest answer for each of `ids` in [start, end), in no particular order.

        bundle: only answers of the model with this manifest digest: a canary may have answered the image since.
        """
        kept = self._columns(columns).empty_table()
        for found in self.matching(ids, start, end, columns, bundle):
            kept = _newest_of(pa.concat_tables([kept, found]), ["id"])
        return kept.select(list(columns))

    def answers(self, ids: Iterable[str], start: datetime, end: datetime, columns: Sequence[str]) -> pa.Table:
        """`columns` of every answer for one of `ids` in [start, end), by hour: an image may have been sent twice."""
        found = list(self.matching(ids, start, end, columns))
        return pa.concat_tables([self._columns(columns).empty_table(), *found]).select(list(columns))

    def matching(
        self, ids: Iterable[str], start: datetime, end: datetime, columns: Sequence[str], bundle: str | None = None
    ) -> Iterator[pa.Table]:
        """`columns` of the answers for `ids` in [start, end), one table for each file that has any: bounded memory."""
        wanted, names = pa.array(sorted(set(ids)), pa.string()), self._columns(columns)
        for key in self._keys(start, end) if len(wanted) else ():
            try:
                with open_seekable(self.store, key) as file:
                    if file is None:
                        continue
                    parquet = open_parquet(file, self.schema)
                    rows = rows_in_time(parquet, start, end, bundle)
                    rows = rows.filter(pc.is_in(rows["id"], wanted))
                    found = take_rows(parquet, rows["row"].to_numpy(), names)
            except UNREADABLE as error:
                logger.warning("%s in the production log is skipped: %s", key, error)
                continue
            if len(found):
                yield found

    def at_places(self, key: str, rows: Sequence[int], columns: Sequence[str]) -> pa.Table | None:
        """`columns` of some rows (ascending) of one file; None if the file is gone or cannot be read."""
        names = self._columns(columns)
        try:
            with open_seekable(self.store, key) as file:
                return file and take_rows(open_parquet(file, self.schema), np.array(rows, np.int64), names)
        except UNREADABLE as error:
            logger.warning("%s in the production log is skipped: %s", key, error)
            return None

    def named(self, texts: Collection[str]) -> pa.Table:
        """id, at, key and path of all answers that one of `texts` may name (tasks.labels.names)."""
        columns = self._columns(["key", "path"])
        kept = columns.empty_table()
        for key in self._all():
            try:
                with open_seekable(self.store, key) as file:
                    if file is not None:
                        rows = read_columns(open_parquet(file, self.schema), columns)
                        kept = pa.concat_tables([kept, rows.filter(pa.array(candidates(rows, texts)))])
            except UNREADABLE as error:
                logger.warning("%s in the production log is skipped: %s", key, error)
        return kept

    # labels that come later

    def add_labels(self, table: pa.Table) -> str | None:
        """Write late labels (late_labels_schema); returns the key, None for no rows."""
        schema = late_labels_schema(self.task)
        if not len(table):
            return None
        content = parquet_bytes(table.select(schema.names).cast(schema))
        key = f"labels/{sha256_bytes(content)[:32]}-{len(content)}.parquet"
        self.store.create(key, content)
        return key

    def label_keys(self) -> list[str]:
        """The keys of all files of labels: a file never changes, so a known key has nothing new."""
        return list(self.store.list("labels/"))

    def labels(self, since: datetime | None = None, keys: Iterable[str] | None = None) -> pa.Table:
        """The newest label of each annotator for each id, by time (late_labels_schema).

        What a person says as a reviewer and as an annotator are two words. Label null: not to be used for anything.
        since: only labels given then or later. keys: only labels of these files.
        """
        schema = late_labels_schema(self.task)
        tables = [schema.empty_table()]
        for key in self.label_keys() if keys is None else keys:
            try:
                with open_seekable(self.store, key) as file:
                    if file is not None:
                        tables.append(read_columns(open_parquet(file, schema), schema))
            except UNREADABLE as error:
                logger.warning("%s in the production log is skipped: %s", key, error)
        table = pa.concat_tables(tables)
        if since is not None:
            table = table.filter(pc.greater_equal(table["at"], pa.scalar(since, schema.field("at").type)))
        return _newest_of(table, ["id", "annotator", "role"])

    # retention

    def prune(self, now: datetime, keep_days: float, keep_gb: float) -> int:
        """Delete hours older than `keep_days`, then the oldest beyond `keep_gb` (10^9 bytes); how many files.

        Labels stay: they are people's work, and small.
        """
        keys = list(self._all())
        old = now.astimezone(UTC) - timedelta(days=keep_days)
        gone = [key for key in keys if _hour(key) + HOUR <= old]
        left = keys[len(gone) :]
        size = {key: self._size(key) for key in left}
        total = sum(size.values())
        for key in left:
            if total <= keep_gb * 1e9:
                break
            total -= size[key]
            gone.append(key)
        for key in gone:
            self.store.remove(key)
        return len(gone)

    # keys

    def answer_keys(self) -> Iterator[str]:
        """The keys of all files of answers, oldest hour first: a file never changes, so a known key has nothing new."""
        return self._all()

    def _columns(self, names: Sequence[str]) -> pa.Schema:
        return pa.schema([field for field in self.schema if field.name in {*names, "id", "at"}])

    def _keys(self, start: datetime, end: datetime) -> Iterator[str]:
        """Keys of the hours that touch [start, end), oldest first."""
        start, end = start.astimezone(UTC), end.astimezone(UTC)
        first = start.replace(minute=0, second=0, microsecond=0)
        if end - first <= 6 * HOUR:
            prefixes = [f"{first + n * HOUR:%Y-%m-%d/%H}/" for n in range(6) if first + n * HOUR < end]
        elif end - first <= timedelta(days=FAR_DAYS):
            days = (end.date() - first.date()).days + 1
            prefixes = [f"{first + timedelta(days=n):%Y-%m-%d}/" for n in range(days)]
        else:
            yield from (key for key in self._all() if first <= _hour(key) < end)
            return
        for prefix in prefixes:
            yield from (key for key in self.store.list(prefix) if _is_hour(key) and first <= _hour(key) < end)

    def _all(self) -> Iterator[str]:
        """All keys of answers, oldest hour first (years of this millennium begin with "2")."""
        return (key for key in self.store.list("2") if _is_hour(key))

    def _newest(self, keys: Iterable[str], now: datetime) -> datetime | None:
        """`at` of the newest row in `keys` (newest hour first) that is not after `now`."""
        best: datetime | None = None
        for key in keys:
            if _hour(key) > now or (best is not None and _hour(key) + HOUR <= best):
                continue
            try:
                with open_seekable(self.store, key) as file:
                    at = open_parquet(file, self.schema).read(["at"])["at"] if file is not None else None
            except UNREADABLE:
                continue  # `window` lists it when it reads this hour
            found = pc.max(at.filter(pc.less_equal(at, pa.scalar(now, at.type)))).as_py() if at is not None else None
            best = max(filter(None, (best, found)), default=None)
        return best

    def _size(self, key: str) -> int:
        if sized := SIZED.search(key):
            return int(sized[1])
        with open_seekable(self.store, key) as file:  # not written by this class, but it takes space too
            return file.seek(0, io.SEEK_END) if file is not None else 0


def majority_labels(labels: pa.Table, taxonomy: Taxonomy = UNCHANGED) -> pa.Table:
    """One label per id (id, label) from `Log.labels`: the newest of a reviewer, else what most annotators say.

    The newest label breaks ties. Names are read through `taxonomy`. Left out are ids that people excluded.
    """
    votes: dict[str, list] = {}
    reviewed: dict = {}
    rows = labels.select(["id", "at", "role"]).append_column("label", read_column(labels["label"], taxonomy))
    for row in sorted(rows.to_pylist(), key=lambda row: row["at"], reverse=True):
        votes.setdefault(row["id"], []).append(row["label"])
        if row["role"] == "reviewer":
            reviewed.setdefault(row["id"], row["label"])
    # max keeps the first, the newest
    counted = {name: max(given, key=given.count) for name, given in votes.items()} | reviewed
    chosen = {name: label for name, label in counted.items() if label is not None}
    labels_of = pa.array(chosen.values(), labels.schema.field("label").type)
    return pa.table({"id": pa.array(chosen, pa.string()), "label": labels_of})


def _is_hour(key: str) -> bool:
    if (found := KEY.fullmatch(key)) is None:
        return False
    try:
        datetime.strptime(f"{found[1]} {found[2]}", "%Y-%m-%d %H")
    except ValueError:
        return False
    return True


def _hour(key: str) -> datetime:
    return datetime.strptime(key[:13], "%Y-%m-%d/%H").replace(tzinfo=UTC)


def _draw(rows: pa.Table, seed: int) -> np.ndarray:
    """(N,) uint64: random numbers determined by id, time and seed.

    Mixed as in Steele et al. 2014, "Fast Splittable Pseudorandom Number Generators" (splitmix64).
    """
    ids = rows["id"].to_numpy().astype("S64") if len(rows) else np.empty(0, "S64")
    words = np.ascontiguousarray(ids).view(np.uint64).reshape(len(ids), 8)
    state = np.full(len(ids), seed & 0xFFFFFFFF, np.uint64)
    for word in (*words.T[:3], rows["at"].cast(pa.int64()).to_numpy().view(np.uint64)):
        state = (state ^ word) + np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state ^= state >> np.uint64(31)
    return state


def _smallest(table: pa.Table, draws: np.ndarray, limit: int) -> tuple[pa.Table, np.ndarray]:
    """The `limit` rows with the smallest draws, and these draws."""
    chosen = np.sort(np.argsort(draws, kind="stable")[:limit])
    return table.take(pa.array(chosen)).combine_chunks(), draws[chosen]


def _newest_of(table: pa.Table, keys: list[str]) -> pa.Table:
    """The row with the latest `at` for each value of `keys`, ordered by time."""
    table = table.sort_by([(name, "ascending") for name in ("at", *keys)])
    numbered = table.select(keys).append_column("row", pa.array(np.arange(len(table))))
    last = numbered.group_by(keys).aggregate([("row", "max")])["row_max"].combine_chunks()
    return table.take(last.take(pc.sort_indices(last)))
