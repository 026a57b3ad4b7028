"""Annotations as today's Evergreen writes them, and as earlier ones did."""

from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.common.files import sha256_bytes
from tasks.common.schemas import OLD_ANNOTATIONS, annotation_schema

NOTHING = {"label": None, "exclude": False, "annotator": None, "role": "import", "at": None, "why": ""}
NOTHING |= {"model_version": None, "retracts": None}


def said(image: str, label=None, day: int | None = None, **about) -> dict:
    """One annotation without its batch; `day` of January 2025."""
    at = None if day is None else datetime(2025, 1, day, tzinfo=UTC)
    return NOTHING | {"id": image, "label": label, "at": at} | about


def old_annotations(data: Path, rows: list[dict], task: str) -> str:
    """Write a file of annotations before version 3, where `why` was review or import; returns its name."""
    types = annotation_schema(task)
    schema = pa.schema([types.field(name) for name in OLD_ANNOTATIONS])
    (data / "annotations").mkdir(exist_ok=True)
    table = pa.Table.from_pylist([dict.fromkeys(OLD_ANNOTATIONS) | row for row in rows], schema=schema)
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer)
    content = buffer.getvalue().to_pybytes()
    name = f"{sha256_bytes(content)[:24]}.parquet"
    (data / "annotations" / name).write_bytes(content)
    return name
