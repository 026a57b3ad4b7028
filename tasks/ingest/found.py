"""What the first reading of a source finds: settings, new images, refusals, votes."""

import hashlib
from dataclasses import dataclass, field
from datetime import datetime

import pyarrow as pa

from tasks.common.files import content_key
from tasks.common.params import DataParams, ImagesParams, InspectParams
from tasks.dataset.decode import Undecodable
from tasks.sources.fields import Unusable
from tasks.sources.offered import Offered

Label = str | list[str] | None


@dataclass(frozen=True)
class IngestSettings:
    """How a source is ingested: what the caller asks for, and the sections of params.yaml that apply."""

    kind: str  # one of tasks.ingest.batch.KINDS
    annotator: str | None  # for rows that name none
    data: DataParams
    images: ImagesParams
    inspect: InspectParams
    picked: str | None = None  # one of PICKED, for rows that do not say it; None: what the kind implies

    def picked_of(self, row: Offered) -> str:
        """How the image of `row` was picked; one of PICKED."""
        if self.kind == "synthetic":
            return "unknown"
        return row.picked or self.picked or ("representative" if self.kind in ("import", "hard") else "unknown")


@dataclass(frozen=True, slots=True)
class Refused:
    """A row that was not taken. `reason` is one of schemas.QUARANTINE_REASONS."""

    number: int  # row in the source, from 0
    where: str
    reason: str
    detail: str

    def __str__(self) -> str:
        return f"{self.where}: {self.reason} ({self.detail})"


@dataclass(slots=True)
class NewImage:
    """An image seen for the first time; `verdict` becomes its split, or why it is refused."""

    number: int  # row in the source
    where: str
    image: str  # sha256 of its bytes
    label: Label
    group: str | None  # as it is stored, see _Reader._group
    source: str | None
    allowed: tuple[str, ...]
    content: str  # hash of everything else that is stored for it
    bad_time: bool = False  # the source gives a time that cannot be read
    picked: str = "representative"
    named: bool = False  # its row says who labelled it
    taken_at: datetime | None = None
    verdict: str | Unusable | None = None

    @property
    def taken(self) -> bool:
        return isinstance(self.verdict, str)


@dataclass(frozen=True, slots=True)
class Vote:
    """A label that one annotator gives to an image. It becomes an annotation unless it adds nothing new."""

    number: int
    image: str
    label: str | list[str]
    annotator: str | None
    at: datetime | None


@dataclass
class Reading:
    """What the first reading of a source found; row i of `measures` belongs to `new[i]`."""

    settings: IngestSettings
    offered: int = 0
    known: int = 0  # rows whose image is in the data set already, or in an earlier row of the source
    tombstoned: int = 0  # of these, in a tombstoned batch
    new: list[NewImage] = field(default_factory=list)
    measures: pa.Table | None = None  # see tasks.inspection.measures.measures_table
    refused: list[Refused] = field(default_factory=list)
    annotations: list[dict] = field(default_factory=list)  # schemas.annotation_schema without batch
    notes: list[str] = field(default_factory=list)  # what the groups did not allow, what contradicts itself

    def taken_rows(self) -> list[int]:
        """Rows of `new` that are taken."""
        return [row for row, new in enumerate(self.new) if new.taken]

    def batch(self) -> str:
        """Name of the batch: the same content has the same name."""
        digest = hashlib.sha256(self.settings.kind.encode())
        for new in self.new:
            if new.taken:
                digest.update(f"{new.image} {new.verdict} {new.content}\n".encode())
        for row in self.annotations:
            digest.update(content_key([row["id"], row["label"], row["annotator"], str(row["at"])]).encode())
        return f"b-{digest.hexdigest()[:12]}"

    def refuse(self, number: int, where: str, why: Unusable | Undecodable) -> None:
        self.refused.append(Refused(number, where, why.reason, why.detail))


def label_names(label: Label) -> tuple[str, ...]:
    """The class names of a label."""
    return () if label is None else (label,) if isinstance(label, str) else tuple(label)
