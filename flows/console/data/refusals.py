"""What was refused and why: rows at ingest, images at validation, whole batches.

Bytes that were refused are never sent to a browser. Only images that a stage could decode are shown, as the thumbnails
that the console makes itself; all others have a placeholder.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.common.paths import state_dir
from tasks.common.rebuildable import expect, read_rebuildable

SHOWN = 200  # rows of one list
BATCH = re.compile(r"[a-z0-9-]{1,40}")
UNSHOWABLE = (
    "empty_file",
    "unknown_format",
    "too_many_pixels",
    "truncated",
    "undecodable",
    "decoder_crashed",
    "archive",
)
WORDS = {  # reason -> words
    "empty_file": "the file is empty",
    "unknown_format": "not an image format that is allowed",
    "too_many_pixels": "too many pixels",
    "truncated": "the file is cut off",
    "undecodable": "cannot be decoded",
    "decoder_crashed": "crashed the decoder",
    "too_small": "under 8 pixels on a side",
    "outside_root": "its path leaves the source",
    "missing_file": "the file is not there",
    "archive": "an archive instead of an image",
    "bad_row": "the row cannot be read",
    "bad_label": "the label cannot be used",
    "unknown_label": "the label is not a class",
    "bad_path": "the path does not fit the layout",
    "bad_split": "not a split",
    "bad_time": "the time cannot be read",
    "bridges_splits": "near-duplicate of images in two splits",
    "in_hard_set": "near-duplicate of a hard-set image",
    "forgotten": "erased on request",
    "expectation": "breaks an expectation",
}


@dataclass(frozen=True)
class RefusedRow:
    """A row that is not used. image: id of a stored image that can be shown; picture: number of a kept picture."""

    where: str
    reason: str
    detail: str
    image: str | None = None
    picture: int | None = None

    @property
    def words(self) -> str:
        return WORDS.get(self.reason, self.reason)


def refused_at_ingest(root: Path, batch: str, most: int | None = SHOWN) -> tuple[list[RefusedRow], int]:
    """(the first `most` rows that an ingest refused with `batch`, all for None; how many there are).

    Their bytes were never stored.
    """
    file = state_dir(root) / "quarantine" / f"{batch}.parquet"
    if not file.is_file():
        return [], 0
    try:
        table = pq.read_table(file, columns=["where", "reason", "detail"])
    except (pa.ArrowException, OSError):  # it can be made again by another ingest of the source
        return [], 0
    kept = {int(file.stem) for file in file.with_suffix("").glob("*.png") if file.stem.isdecimal()}
    rows = [
        RefusedRow(row["where"], row["reason"], row["detail"], picture=place if place in kept else None)
        for place, row in enumerate(table.to_pylist())
        if most is None or place < most or place in kept
    ]
    return rows, len(table)


def picture_file(root: Path, batch: str, place: int) -> Path | None:
    """The picture of a row that an ingest refused, which a child process wrote as PNG; None if there is none."""
    if not BATCH.fullmatch(batch):
        return None
    file = state_dir(root) / "quarantine" / batch / f"{place}.png"
    return file if file.is_file() else None


def refused_sources(root: Path) -> list[tuple[str, int]]:
    """(name, rows) of refusals of ingests that took nothing, which belong to no batch."""
    found = []
    for file in sorted((state_dir(root) / "quarantine").glob("refused-*.parquet")):
        try:
            found.append((file.stem, pq.read_metadata(file).num_rows))
        except (pa.ArrowException, OSError):
            continue
    return found


def refused_at_validation(root: Path, batch: str, most: int | None = SHOWN) -> list[RefusedRow]:
    """The first `most` images of `batch` that the newest run that got so far quarantined; all for None."""
    for tree in _workspaces(root):
        file = tree / "artifacts/validate/quarantine.parquet"
        if not file.is_file():
            continue
        try:
            rows = pq.read_table(file, filters=[("batch", "=", batch)]).slice(0, most).to_pylist()
        except (pa.ArrowException, OSError):  # damaged, or just deleted with its workspace
            continue
        return [
            RefusedRow(row["id"][:12], row["reason"], row["detail"], None if row["reason"] in UNSHOWABLE else row["id"])
            for row in rows
        ]
    return []


def kept_validation(root: Path, what: str) -> dict[str, Any] | None:
    """What the validation found that refused `what` (a batch, or "table"); None if there is none."""
    if "/" in what or what.startswith("."):
        return None
    file = state_dir(root) / "validation" / f"{what}.json"
    return read_rebuildable(file, lambda about: expect(about, dict), "the next refusal writes it again")


def accepted_checks(root: Path, batch: str) -> list[dict[str, Any]] | None:
    """The checks by which the newest run accepted `batch`; None if no workspace of such a run is left."""
    for tree in _workspaces(root):
        file = tree / "artifacts/validate/result.json"
        found = read_rebuildable(file, lambda about: expect(about["batches"], list), "an older run is looked at")
        for about in found or ():
            if about["batch"] == batch and about["judged"]:
                return about["checks"]
    return None


def _workspaces(root: Path) -> list[Path]:
    """Workspaces of runs, newest first."""
    runs = state_dir(root) / "runs"
    return sorted((one / "tree" for one in runs.glob("*") if one.is_dir()), reverse=True) if runs.is_dir() else []
