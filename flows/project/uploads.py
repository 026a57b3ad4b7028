"""What people sent through the browser and what a dry run understood of it, before it is taken.

    .evergreen/uploads/<id>/upload.json    who sent what, when, and as what it would be taken
    .evergreen/uploads/<id>/received/      the files as they came
    .evergreen/uploads/<id>/source/        what `evergreen ingest` reads: the unpacked ZIP, or the files themselves
    .evergreen/uploads/<id>/dry.json       what a dry run found; taken.json: what became of it

The images are deleted once they are taken, when a person discards them, or after a day.
"""

import re
import secrets
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

from flows.project.unpack import MANIFESTS, ArchiveRefused, Limits, unpack
from tasks.common.errors import EvergreenError
from tasks.common.files import write_json
from tasks.common.paths import state_dir
from tasks.common.private import make_folder
from tasks.common.rebuildable import expect, read_rebuildable

ID = re.compile(r"[0-9]{8}T[0-9]{6}-[0-9a-f]{12}")
KEPT = 24 * 3600.0  # seconds after which what was not taken is deleted
KINDS = ("import", "hard", "synthetic")
LONGEST = 150  # bytes of a name without its suffix: file systems take 255


@dataclass(frozen=True)
class Upload:
    """One upload."""

    id: str
    by: str
    at: str
    kind: str  # one of KINDS
    names: list[str]  # as the browser called the files
    bytes: int
    source: str | None = None  # what to ingest, relative to the upload's folder; None: not unpacked yet


def begin(root: Path) -> Path:
    """The folder of a new upload; deletes what is left of old ones."""
    sweep_uploads(root)
    folder = _folder(root) / f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(6)}"
    make_folder(folder / "received")
    return folder


def safe_name(written: str, taken: Sequence[str] = ()) -> str:
    """The file name in `written`, which a browser sent: one part of a path that no other file has."""
    name = PurePosixPath(written.replace("\\", "/")).name.replace("\0", "").strip()
    suffix = Path(name).suffix[:10]
    stem = Path(name).stem.encode("utf-8", "replace")[:LONGEST].decode("utf-8", "ignore").lstrip(".") or "file"
    found, number = f"{stem}{suffix}", 1
    while found.casefold() in (one.casefold() for one in taken):
        number += 1
        found = f"{stem}-{number}{suffix}"
    return found


def complete(folder: Path, names: Sequence[str], kind: str, by: str, limits: Limits | None = None) -> Upload:
    """Make a source of what was received: one ZIP, a ZIP and a table of its images, or images and a table.

    Raises EvergreenError and deletes the upload if that is not possible.
    """
    try:
        return _complete(folder, names, kind, by, limits)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _complete(folder: Path, names: Sequence[str], kind: str, by: str, limits: Limits | None) -> Upload:
    if kind not in KINDS:
        raise EvergreenError(f"kind {kind[:40]!r}: expected one of {', '.join(KINDS)}")
    files = sorted((folder / "received").iterdir())
    zips = [file for file in files if file.suffix.lower() == ".zip"]
    tables = [file for file in files if file.suffix.lower() in MANIFESTS]
    if not files:
        raise EvergreenError("no file came: choose a ZIP of class folders, a table and a ZIP, or images")
    if len(zips) > 1:
        raise ArchiveRefused(f"{len(zips)} ZIP files: send one at a time, or pack them together")
    if len(tables) > 1:
        raise EvergreenError(f"{len(tables)} tables ({', '.join(file.name for file in tables[:5])}): send one")
    size = sum(file.stat().st_size for file in files)
    source = folder / "source"
    if zips:
        source = unpack(zips[0], source, limits)
        for file in tables:
            if (source / file.name).exists():
                raise EvergreenError(f"{file.name} is in the ZIP, too: send it once")
            file.rename(source / file.name)
        zips[0].unlink()
    else:
        (folder / "received").rename(source)
    if tables:
        source = source / tables[0].name
    found = Upload(
        folder.name, by, datetime.now(UTC).isoformat(timespec="seconds"), kind, list(names)[:50], size,
        source.relative_to(folder).as_posix(),
    )  # fmt: skip
    write_json(folder / "upload.json", asdict(found))
    return found


def read_upload(root: Path, id_: str) -> Upload | None:
    """The upload `id_`; None if there is none, or it was deleted."""
    if not ID.fullmatch(id_):
        return None
    return read_rebuildable(
        _folder(root) / id_ / "upload.json", lambda about: Upload(**about), "the upload is forgotten"
    )


def uploads(root: Path) -> list[Upload]:
    """All uploads that are kept, newest first."""
    folder = _folder(root)
    names = sorted((one.name for one in folder.iterdir()), reverse=True) if folder.is_dir() else []
    return [found for name in names if (found := read_upload(root, name))]


def source_of(root: Path, upload: Upload) -> Path:
    """What `evergreen ingest` is to read."""
    return _folder(root) / upload.id / upload.source


def report_file(root: Path, id_: str, name: str) -> Path:
    """Where an ingest of the upload writes what it found. name: "dry" or "taken"."""
    return _folder(root) / id_ / f"{name}.json"


def read_report(root: Path, id_: str, name: str) -> dict[str, Any] | None:
    """What the ingest found; None if it has not ended."""

    def accept(about: dict) -> dict:
        expect(about["understood"], list)
        return about | {"report": expect(about["reports"], list)[0]}

    return read_rebuildable(report_file(root, id_, name), accept, "run it again")


def discard(root: Path, id_: str, images_only: bool = False) -> None:
    """Delete an upload; images_only: keep what is known of it."""
    if ID.fullmatch(id_):
        folder = _folder(root) / id_
        for name in ("source", "received") if images_only else ("",):
            shutil.rmtree(folder / name, ignore_errors=True)


def sweep_uploads(root: Path, now: float | None = None) -> int:
    """Delete uploads that are older than a day; returns how many."""
    folder, gone = _folder(root), 0
    for one in folder.iterdir() if folder.is_dir() else ():
        newest = max((file.stat().st_mtime for file in [one, *one.glob("*.json")]), default=0.0)
        if (now or time.time()) - newest > KEPT:
            shutil.rmtree(one, ignore_errors=True)
            gone += 1
    return gone


def _folder(root: Path) -> Path:
    return state_dir(root) / "uploads"
