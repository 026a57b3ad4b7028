"""Batches of annotations on disk: what people said about samples, apart from the samples.

    data/annotations/
      <sha256[:24]>.parquet        annotations (schemas.ANNOTATIONS), named by content
      batches/<seq>-<batch>.json   written last: a file counts only once a manifest lists it

They have manifests of their own, so that a new label changes nothing that the stages `inspect` and `embed` read.
Earlier data sets list annotation files in data/batches; these are still read.
"""

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from tasks.common.files import write_json

FOLDER = "annotations"  # under data/


class AnnotationBatch(BaseModel):
    """Annotations that were taken together. `seq` continues that of the data's batches."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seq: int
    batch: str  # "l-" + 12 hex digits of the hash of its content; of an ingest: the id of the ingest's batch
    needs: str | None = None  # a batch of data/batches: these annotations count once it is there
    files: list[str]  # file names under data/annotations/
    rows: int


def annotation_batches(data: Path) -> list[AnnotationBatch]:
    """All batches of annotations, in the order in which they were taken."""
    found = [AnnotationBatch.model_validate_json(p.read_text()) for p in (data / FOLDER / "batches").glob("*.json")]
    return sorted(found, key=lambda batch: (batch.seq, batch.batch))


def manifest_file(data: Path, batch: AnnotationBatch) -> Path:
    """Where the manifest of `batch` lies."""
    return data / FOLDER / "batches" / f"{batch.seq:06d}-{batch.batch}.json"


def write_annotation_manifest(data: Path, batch: AnnotationBatch) -> None:
    """Make the annotations of `batch` count: the only commit point of a correction."""
    write_json(manifest_file(data, batch), batch.model_dump())
