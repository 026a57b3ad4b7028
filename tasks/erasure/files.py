"""Find and remove traces of erased images in a file of any format, told by its content."""

import json
from collections import Counter
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.common.files import sha256_bytes
from tasks.erasure.documents import clean_json, clean_page, clean_table, clean_text
from tasks.erasure.traces import Search

PICTURES = (b"\x89PNG\r\n", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"BM", b"II*\0", b"MM\0*")
HEAD = 8192  # bytes that tell text from binary
ROW_GROUP = 64
TOLD = frozenset({"key", "path", "where", "file", "detail", "why", "reason"})  # columns of words that may name an image


class Found(NamedTuple):
    """What a file held of erased images, by how it was found, and what is left of it."""

    hits: Counter
    rest: bytes | None  # None: nothing of the file remains


def look(content: bytes, name: str, search: Search) -> Found:
    """Look for traces in the file `name` with `content`. A file that is named by an id is of that image."""
    if name.rpartition("/")[2].partition(".")[0] in search.ids:
        return Found(Counter(["id"]), None)
    if content[:4] == b"PAR1":
        return _parquet(content, search)
    if content.startswith(PICTURES):
        how = search.picture(content)
        return Found(Counter([how]), None) if how else Found(Counter(), content)
    if not is_text(content):
        same = sha256_bytes(content) in search.ids
        return Found(Counter(["bytes"]), None) if same else Found(Counter(), content)
    return Found(*_document(content, name, search))


def is_text(content: bytes) -> bool:
    """Is it text, as far as its beginning tells?"""
    return b"\0" not in content[:HEAD]


def _document(content: bytes, name: str, search: Search) -> tuple[Counter, bytes | None]:
    if not search.short and not search.text(content):
        return Counter(), content
    ending = name.rpartition(".")[2].lower()
    if ending in ("html", "htm"):
        return clean_page(content, search)
    if ending == "json":
        try:
            return clean_json(content, search)
        except ValueError:
            return clean_text(content, search)
    if ending in ("csv", "tsv"):
        return clean_table(content, search)
    if ending == "jsonl":
        return clean_table(content, search, quoted=False)
    if ending not in ("log", "txt", "md") and content.lstrip()[:1] in (b"{", b"["):  # an object of DVC has no ending
        try:
            json.loads(content)
            return clean_json(content, search)
        except ValueError:
            pass
    return clean_text(content, search)


# Parquet


def _parquet(content: bytes, search: Search) -> Found:
    try:
        file = pq.ParquetFile(pa.BufferReader(content))
        gone = rows_about(file, search)
    except (OSError, pa.ArrowException):  # torn: no reader can read rows from it
        return Found(Counter(), content)
    if not len(gone):
        return Found(Counter(), content)
    hits = Counter(gone.values())
    table = file.read()
    rest = table.take(pa.array([row for row in range(len(table)) if row not in gone], pa.int64()))
    return Found(hits, parquet_bytes(rest) if len(rest) else None)


def parquet_bytes(table: pa.Table) -> bytes:
    """`table` with its metadata, small row groups and checksums, as bytes."""
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer, compression="zstd", row_group_size=ROW_GROUP, write_page_checksum=True)
    return buffer.getvalue().to_pybytes()


def rows_about(file: pq.ParquetFile, search: Search) -> dict[int, str]:
    """Row -> how it was found. Image bytes are read only where no column `id` says what they are."""
    found: dict[int, str] = {}
    schema = file.schema_arrow
    with_ids = "id" in schema.names and pa.types.is_string(schema.field("id").type)
    for field in schema:
        if field.name == "image" and pa.types.is_struct(field.type):
            paths = file.read(columns=["image.path"])["image"].combine_chunks()
            if "path" in [child.name for child in paths.type]:
                _texts(pc.struct_field(paths, "path"), "path", search, found)
            if not with_ids:
                images = file.read(columns=["image.bytes"])["image"].combine_chunks()
                _bytes(pc.struct_field(images, "bytes"), search, found)
        elif pa.types.is_string(field.type) or pa.types.is_large_string(field.type):
            _texts(file.read(columns=[field.name])[field.name], field.name, search, found)
        elif pa.types.is_binary(field.type) and not with_ids:
            _bytes(file.read(columns=[field.name])[field.name], search, found)
        elif pa.types.is_list(field.type) and pa.types.is_string(field.type.value_type):
            for row, values in enumerate(file.read(columns=[field.name])[field.name].to_pylist()):
                if any(value is not None and search.is_id(value) for value in values or ()):
                    found.setdefault(row, "id")
    return found


def _texts(column, field: str, search: Search, found: dict[int, str]) -> None:
    """Rows whose text is or holds an id, key or path. Names are looked for in the fields that may hold one."""
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    coded = column.dictionary_encode()
    bad: dict[int, str] = {}
    for code, value in enumerate(coded.dictionary.to_pylist()):
        if how := search.named(value, field) if value else "":
            bad[code] = how
        elif value and field in TOLD and (hits := search.text(value.encode("utf-8", "surrogatepass"))):
            bad[code] = hits[0].how
    if bad:
        for row, code in enumerate(coded.indices.to_pylist()):
            if code in bad:
                found.setdefault(row, bad[code])


def _bytes(column, search: Search, found: dict[int, str]) -> None:
    for row, value in enumerate(column):
        content = value.as_py()
        if content and sha256_bytes(content) in search.ids:
            found.setdefault(row, "bytes")
