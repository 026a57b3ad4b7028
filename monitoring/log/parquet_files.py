"""The Parquet files of the production log: written whole, checked, and read only where needed.

N is the number of rows.
"""

import hashlib
import io
import re
import tempfile
from datetime import datetime
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from monitoring.log.schema import ADDED, DEFAULTS, SCHEMA_VERSION
from tasks.common.errors import DamagedFile, EvergreenError, refuse_newer
from tasks.common.verified import check_opened
from tasks.storage.blobs import Store

ROW_GROUP = 64  # rows: as many images are in memory at once
IN_MEMORY = 32 << 20  # bytes; a larger remote file is read from a temporary file
VERSION_KEY = b"evergreen.schema"  # in the file's metadata
COMPRESSED = ("image", "thumbnail")  # already compressed, by JPEG or PNG
REPEATED = ["source", "reason", "version", "bundle", "format", "mode"]  # worth a dictionary


class WrongSchema(Exception):
    """A Parquet file that does not belong to this log."""


UNREADABLE = (pa.ArrowException, OSError, WrongSchema, DamagedFile)  # what reading a damaged or unknown file raises
NAMED = re.compile(r"([0-9a-f]{32})-(\d+)\.parquet$")  # sha256 and size, as the writer named the file
REMEDY = "Restore it from a backup of the production log"


def parquet_bytes(table: pa.Table) -> bytes:
    """`table` as the bytes of a Parquet file, with checksums and small row groups."""
    table = table.replace_schema_metadata({VERSION_KEY: str(SCHEMA_VERSION)})
    buffer = pa.BufferOutputStream()
    pq.write_table(
        table,
        buffer,
        row_group_size=ROW_GROUP,
        compression={field.name: "none" if field.name in COMPRESSED else "zstd" for field in table.schema},
        use_dictionary=[name for name in REPEATED if name in table.schema.names],
        write_statistics=["at"],
        write_page_checksum=True,
    )
    return buffer.getvalue().to_pybytes()


class open_seekable:
    """A key as a seekable file, or None if it is gone. Raises DamagedFile if it is not named by its content.

    A store that only streams is read into a temporary copy, and hashed while it comes. A file in a folder is hashed
    once per process. A file of another size than its name says was rewritten by an erasure: nothing says its hash.
    """

    def __init__(self, store: Store, key: str):
        self._stream, self._key = store.open(key), key

    def __enter__(self) -> BinaryIO | None:
        if self._stream is None:
            return None
        named = NAMED.search(self._key)
        try:
            if not self._stream.seekable():
                self._stream = _copied(self._stream, self._key, named)
            elif named and self._stream.seek(0, io.SEEK_END) == int(named[2]):
                check_opened(self._stream, self._key, named[1])
            self._stream.seek(0)
        except BaseException:
            self._stream.close()
            raise
        return self._stream

    def __exit__(self, *_) -> None:
        if self._stream is not None:
            self._stream.close()


def _copied(stream: BinaryIO, key: str, named: re.Match | None) -> BinaryIO:
    digest, copy = hashlib.sha256(), tempfile.SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115 (the caller closes it)
    with stream:
        while block := stream.read(1 << 20):
            digest.update(block)
            copy.write(block)
    if named and copy.tell() == int(named[2]) and not digest.hexdigest().startswith(named[1]):
        raise DamagedFile(key, named[1], digest.hexdigest(), remedy=REMEDY)
    return copy


def open_parquet(file: BinaryIO, schema: pa.Schema) -> pq.ParquetFile:
    """`file` as Parquet with the columns of `schema`, without ADDED ones if it is old: `read_columns` fills them in.

    Raises WrongSchema.
    """
    parquet = pq.ParquetFile(file, page_checksum_verification=True)
    found = parquet.schema_arrow
    version = (found.metadata or {}).get(VERSION_KEY, b"1")
    lacking = {name for name in ADDED if version == b"1"} - set(found.names)
    try:
        refuse_newer(int(version), SCHEMA_VERSION, "this file of the production log")
    except (ValueError, EvergreenError) as error:
        raise WrongSchema(str(error)) from None
    for field in schema:
        if field.name in lacking:
            continue
        at = found.get_field_index(field.name)
        if at < 0 or not found.field(at).type.equals(field.type):
            raise WrongSchema(
                f"column {field.name!r}: expected {field.type}, found {found.field(at).type if at >= 0 else 'none'}"
            )
    return parquet


def rows_in_time(parquet: pq.ParquetFile, start: datetime, end: datetime, bundle: str | None) -> pa.Table:
    """(row, id, at) of the rows requested in [start, end) and answered by `bundle` (None: by any)."""
    table = parquet.read(["id", "at", *(["bundle"] if bundle is not None else [])])
    table = table.append_column("row", pa.array(np.arange(len(table))))
    at = table["at"]
    inside = pc.and_(pc.greater_equal(at, pa.scalar(start, at.type)), pc.less(at, pa.scalar(end, at.type)))
    if bundle is not None:
        inside = pc.and_(inside, pc.equal(table["bundle"], bundle))
    return table.filter(inside)  # null counts as outside


def read_columns(parquet: pq.ParquetFile, schema: pa.Schema, group: int | None = None) -> pa.Table:
    """The columns of `schema` of one row group, or of the file; DEFAULTS or null stand in for those it lacks."""
    names = [name for name in schema.names if name in parquet.schema_arrow.names]
    table = parquet.read(names) if group is None else parquet.read_row_group(group, columns=names)
    for field in schema:
        if field.name not in names:
            column = pa.repeat(pa.scalar(DEFAULTS.get(field.name), field.type), len(table))
            table = table.append_column(field, column)
    return table.select(schema.names).cast(schema)


def take_rows(parquet: pq.ParquetFile, rows: np.ndarray, schema: pa.Schema) -> pa.Table:
    """The columns of `schema` of `rows` (ascending), with one row group in memory at a time."""
    tables = [schema.empty_table()]
    first = 0
    for group in range(parquet.num_row_groups if len(rows) else 0):
        count = parquet.metadata.row_group(group).num_rows
        inside = rows[(rows >= first) & (rows < first + count)] - first
        if len(inside):
            found = read_columns(parquet, schema, group)
            tables.append(found if len(inside) == count else found.take(pa.array(inside)))
        first += count
    return pa.concat_tables(tables)
