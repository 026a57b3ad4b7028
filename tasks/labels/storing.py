"""Write annotations into the data set: first a file named by its content, then a manifest."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.common.files import atomic_path, content_key, sha256_bytes
from tasks.common.schemas import annotation_schema
from tasks.dataset.annotation_files import FOLDER, AnnotationBatch, write_annotation_manifest
from tasks.dataset.shards import known_batches, next_seq, raise_schema, read_task

KEYS = ("id", "label", "exclude", "annotator", "role", "why", "model_version", "retracts")


def batch_name(rows: Sequence[dict]) -> str:
    """Name of a batch of annotations: the same content has the same name."""
    return f"l-{content_key([[str(row['at']), *(row[key] for key in KEYS)] for row in rows])[:12]}"


def write_annotations(
    data: Path, rows: Sequence[dict], batch: str | None = None, needs: str | None = None
) -> str | None:
    """Add `rows` (annotation_schema without batch) to the data set; returns their batch, None for no rows.

    batch: a name, if not that of their content. needs: a batch of samples without which they do not count. Annotations
    that the data set holds already are not added again. The caller holds the lock of data/.
    """
    if not rows:
        return None
    batch = batch or batch_name(rows)
    if batch in known_batches(data):
        return batch
    seq = next_seq(data)
    name = write_annotation_file(data, [row | {"batch": batch} for row in rows], read_task(data))
    raise_schema(data)
    write_annotation_manifest(data, AnnotationBatch(seq=seq, batch=batch, needs=needs, files=[name], rows=len(rows)))
    return batch


def write_annotation_file(data: Path, rows: Sequence[dict], task: str) -> str:
    """Write `rows` (annotation_schema) under `data`; returns the file's name. Same rows, same name."""
    buffer = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(list(rows), schema=annotation_schema(task)), buffer, compression="zstd")
    content = buffer.getvalue()
    name = f"{sha256_bytes(content)[:24]}.parquet"
    with atomic_path(data / FOLDER / name) as temporary:
        temporary.write_bytes(content)
    return name
