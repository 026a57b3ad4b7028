"""Batches of annotations on disk: what people said about samples, apart from the samples.

    data/annotations/
      <sha256[:24]>.parquet        annotations (schemas.ANNOTATIONS), named by content
      batches/<seq>-<batch>.json   written last: a file counts only once a manifest lists it

They have manifests of their own, so that a new label changes nothing that the stages `inspect` and `embed` read.
Earlier data sets list annotation files in data/batches; these are still read.
"""

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from tasks.common.errors import DataError
from tasks.common.files import write_json

M = TypeVar("M", bound=BaseModel)

FOLDER = "annotations"  # under data/


class AnnotationBatch(BaseModel):
    """Annotations that were taken together. `seq` continues that of the data's batches."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seq: int
    batch: str  # "l-" + 12 hex digits of the hash of its content; of an ingest: the id of the ingest's batch
    needs: str | None = None  # a batch of data/batches: these annotations count once it is there
    files: list[str]  # file names under data/annotations/
    rows: int


def read_manifest(file: Path, kind: type[M]) -> M:
    """The manifest of a batch in `file`. Raises DataError naming the file if it is not one."""
    try:
        return kind.model_validate_json(file.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise DataError(
            f"{file} is not the manifest of a batch ({place + ': ' if place else ''}{first['msg']}): it was cut off or "
            "altered. `dvc checkout data.dvc` brings back the one that is committed"
        ) from None


def annotation_batches(data: Path) -> list[AnnotationBatch]:
    """All batches of annotations, in the order in which they were taken."""
    found = [read_manifest(file, AnnotationBatch) for file in (data / FOLDER / "batches").glob("*.json")]
    return sorted(found, key=lambda batch: (batch.seq, batch.batch))


def manifest_file(data: Path, batch: AnnotationBatch) -> Path:
    """Where the manifest of `batch` lies."""
    return data / FOLDER / "batches" / f"{batch.seq:06d}-{batch.batch}.json"


def write_annotation_manifest(data: Path, batch: AnnotationBatch) -> None:
    """Make the annotations of `batch` count: the only commit point of a correction."""
    write_json(manifest_file(data, batch), batch.model_dump())
