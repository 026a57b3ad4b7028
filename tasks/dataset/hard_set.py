"""Changes of the hard set: what people put in, took out, or marked as never to be wrong again.

    data/batches/<seq>-h-<sha256[:24]>.parquet    one change: rows of CHANGES, named by content

A change is only ever added; the newest word about an image counts. They lie among the manifests of data/, so that the
stage `inspect` and everything after it run again, while a label alone changes nothing there. An ingest of kind "hard"
puts its images into the hard set without a change.

    never_again(root / "data")   # ids of the images that no released model may get wrong: the gate's floor reads them
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.common.errors import DamagedFile
from tasks.common.files import atomic_path, sha256_bytes
from tasks.common.private import make_folder

What = Literal["add", "remove", "never", "allow"]
OPPOSITE: dict[What, What] = {"add": "remove", "remove": "add", "never": "allow", "allow": "never"}
WORDS: dict[What, str] = {  # for people
    "add": "added",
    "remove": "taken out",
    "never": "marked never again",
    "allow": "no longer never again",
}
FOLDER, MARK = "batches", "h-"  # under data/; how the names of changes go on after the number

CHANGES = pa.schema(
    [
        ("id", pa.string()),
        ("what", pa.string()),  # one of What
        ("at", pa.timestamp("us", tz="UTC")),
        ("by", pa.string()),
        ("why", pa.string()),
        ("origin", pa.string()),  # chosen | production | queue | undo: where the image was picked from
        ("model", pa.string()),  # the version whose mistake made people pick it; null: another reason
        ("was", pa.string()),  # the image's split before; null: it was in none
    ]
)


class ChangeFile(NamedTuple):
    """One change on disk."""

    seq: int
    batch: str  # "h-" + 12 hex digits of its content
    name: str  # under data/batches/


@dataclass(frozen=True)
class Membership:
    """What the changes say in sum. Each id is in at most one of added and removed."""

    added: frozenset[str] = frozenset()
    removed: frozenset[str] = frozenset()
    never: frozenset[str] = frozenset()
    rows: dict[str, dict] = field(default_factory=dict, hash=False)  # id -> the change that put it in or took it out


def change_files(data: Path) -> list[ChangeFile]:
    """All changes, in the order in which they were made."""
    found = (change_of(file.name) for file in (data / FOLDER).glob(f"*-{MARK}*.parquet"))
    return sorted(one for one in found if one)


def change_of(name: str) -> ChangeFile | None:
    """The change that a file of data/batches holds; None for another file."""
    seq, found, digest = name.removesuffix(".parquet").partition(f"-{MARK}")
    return ChangeFile(int(seq), f"{MARK}{digest[:12]}", name) if found and seq.isdigit() else None


def version_of(ids: Collection[str], name: str) -> str | None:
    """The name of a set of images, a hash of its ids: "hard-..."; None for no image."""
    return f"{name}-{sha256_bytes(''.join(sorted(ids)).encode())[:12]}" if ids else None


def read_changes(data: Path) -> pa.Table:
    """Every row of every change, in order: CHANGES, `seq` and `batch`. Raises DamagedFile."""
    return _read(data, tuple(change_files(data)))


@lru_cache(maxsize=16)
def _read(data: Path, files: tuple[ChangeFile, ...]) -> pa.Table:
    tables = [pa.schema([*CHANGES, ("seq", pa.int32()), ("batch", pa.string())]).empty_table()]
    for file in files:
        path = data / FOLDER / file.name
        content = path.read_bytes()
        if not (found := sha256_bytes(content)).startswith(digest := path.stem.partition(f"-{MARK}")[2]):
            raise DamagedFile(path, digest, found)
        table = pq.read_table(pa.BufferReader(content)).select(CHANGES.names).cast(CHANGES)
        table = table.append_column("seq", pa.array([file.seq] * len(table), pa.int32()))
        tables.append(table.append_column("batch", pa.array([file.batch] * len(table), pa.string())))
    return pa.concat_tables(tables)


def membership(data: Path) -> Membership:
    """Which images the changes put in and took out, and which are marked. Raises DamagedFile."""
    return _membership(data, tuple(change_files(data)))


@lru_cache(maxsize=16)
def _membership(data: Path, files: tuple[ChangeFile, ...]) -> Membership:
    return sum_of(_read(data, files).to_pylist()) if files else Membership()


def sum_of(rows: Sequence[dict]) -> Membership:
    """What `rows` of changes say in sum, in their order."""
    place: dict[str, dict] = {}
    marked: dict[str, bool] = {}
    for row in rows:
        if row["what"] in ("add", "remove"):
            place[row["id"]] = row
        else:
            marked[row["id"]] = row["what"] == "never"
    added = frozenset(name for name, row in place.items() if row["what"] == "add")
    return Membership(added, frozenset(place) - added, frozenset(name for name, yes in marked.items() if yes), place)


def never_again(data: Path) -> frozenset[str]:
    """Ids of the images that no released model may get wrong, of the hard set or of the test split."""
    return membership(data).never


def current_splits(data: Path, ids: pa.ChunkedArray, splits: pa.ChunkedArray) -> pa.ChunkedArray:
    """The splits (N,) of today: `splits` as the shards record them, but for images that changes put in or took out.

    An image that was taken out returns to its recorded split. One that was ingested for the hard set has no other: it
    is in none, null.
    """
    now = membership(data)
    if not now.rows:
        return splits
    taken_in = pc.is_in(ids, pa.array(sorted(now.added), pa.string()))
    out = pc.and_(
        pc.is_in(ids, pa.array(sorted(now.removed), pa.string())), pc.fill_null(pc.equal(splits, "hard"), False)
    )
    return pc.if_else(taken_in, "hard", pc.if_else(out, pa.scalar(None, pa.string()), splits))


def write_changes(data: Path, rows: Sequence[dict], seq: int) -> str:
    """Store one change, rows of CHANGES, as number `seq`; returns its batch. The caller holds the lock of data/."""
    return _write(
        data, pa.Table.from_pylist(sorted(rows, key=lambda row: (row["id"], row["what"])), schema=CHANGES), seq
    )


def _write(data: Path, table: pa.Table, seq: int) -> str:
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer, compression="zstd")
    content = buffer.getvalue()
    digest = sha256_bytes(content)[:24]
    make_folder(data / FOLDER)
    with atomic_path(data / FOLDER / f"{seq:06d}-{MARK}{digest}.parquet") as temporary:
        temporary.write_bytes(content)
    return f"{MARK}{digest[:12]}"


def erase_changes(data: Path, ids: Collection[str]) -> list[str]:
    """Remove `ids` from every change; returns the names of the files that are gone.

    A killed call is completed by the next one: until then a change may be there twice, which says the same.
    """
    gone, wanted = [], pa.array(sorted(ids), pa.string())
    for file in change_files(data):
        path = data / FOLDER / file.name
        table = pq.read_table(pa.BufferReader(path.read_bytes()))
        rest = table.filter(pc.invert(pc.is_in(table["id"], wanted)))
        if len(rest) == len(table):
            continue
        if len(rest):
            _write(data, rest, file.seq)
        path.unlink()
        gone.append(file.name)
    return gone
