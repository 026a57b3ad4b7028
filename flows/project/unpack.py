"""Unpack a ZIP of images that a stranger may have made: bounded, and nothing outside its folder.

Refused as a whole, before anything counts: paths that leave the folder, links and other special files, two files of one
name, encrypted files, and more files, bytes or compression than `Limits` allows. The bytes are counted while they are
written, for the sizes that a ZIP states can be wrong.
"""

import lzma
import shutil
import stat
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tasks.common.errors import EvergreenError
from tasks.common.private import make_folder, open_private

MANIFESTS = (".csv", ".tsv", ".jsonl", ".parquet", ".json", ".xml")
JUNK = ("__MACOSX", ".DS_Store", "Thumbs.db", "desktop.ini")  # made by file managers
CHUNK = 1 << 20
DAMAGED = (
    zipfile.BadZipFile,
    NotImplementedError,
    EOFError,
    ValueError,
    zlib.error,
    lzma.LZMAError,
)  # what zipfile raises for damage
LONGEST = 200  # bytes of one part of a path
DEEPEST = 20  # parts of a path


@dataclass(frozen=True)
class Limits:
    """What one upload may hold."""

    files: int = 200_000
    bytes: int = 20 << 30  # unpacked
    ratio: int = 100  # unpacked to packed bytes; images hardly shrink, tables by 10 to 30
    room: float = 0.5  # share of the free disk that may be filled


class ArchiveRefused(EvergreenError):
    """The ZIP is not taken; the message says why and what to do."""


def unpack(archive: Path, to: Path, limits: Limits | None = None) -> Path:
    """Unpack `archive` into the new folder `to`; returns the folder that holds its content.

    That is the only folder of the ZIP, where it holds no other files and is not a class itself.
    """
    limits = limits or Limits()
    try:
        with zipfile.ZipFile(archive) as opened:
            entries = _checked(opened, archive, limits)
            make_folder(to)
            _write(opened, entries, to, limits, archive.stat().st_size)
    except (*DAMAGED, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # bz2 raises one without a number for damage
            raise EvergreenError(f"{archive.name} cannot be unpacked here: {error.strerror}") from None
        raise ArchiveRefused(
            f"{archive.name} is not a ZIP that can be read ({error}): make it again with your file manager or `zip -r`"
        ) from None
    return content_folder(to)


def content_folder(folder: Path) -> Path:
    """`folder`, or the only folder in it, as long as that holds folders and no files: people pack a parent folder."""
    while True:
        inside = list(folder.iterdir())
        if len(inside) != 1 or not inside[0].is_dir():
            return folder
        below = list(inside[0].iterdir())
        if not any(one.is_dir() for one in below) and not any(_is_manifest(one) for one in below):
            return folder  # it holds images: the only folder is a class
        folder = inside[0]


def _is_manifest(file: Path) -> bool:
    return file.suffix.lower() in MANIFESTS


def _checked(opened: zipfile.ZipFile, archive: Path, limits: Limits) -> list[tuple[zipfile.ZipInfo, PurePosixPath]]:
    """The files of the ZIP and their paths. Raises ArchiveRefused."""
    entries, seen = [], set()
    free = shutil.disk_usage(archive.parent).free
    if len(opened.infolist()) > 2 * limits.files:
        raise ArchiveRefused(_too_many(archive, len(opened.infolist()), limits))
    for info in opened.infolist():
        path = _safe_path(info, archive)
        if info.is_dir() or any(part in JUNK for part in path.parts):
            continue
        if info.flag_bits & 0x1:
            raise ArchiveRefused(f"{archive.name} is encrypted ({path}): pack the images without a password")
        kind = stat.S_IFMT(info.external_attr >> 16)
        if kind not in (0, stat.S_IFREG):
            what = "a link" if kind == stat.S_IFLNK else "not a file"
            raise ArchiveRefused(f"{path} in {archive.name} is {what}: pack the files themselves")
        folded = str(path).casefold()
        if folded in seen:
            raise ArchiveRefused(f"{archive.name} holds {path} twice: which one is meant cannot be known")
        seen.add(folded)
        entries.append((info, path))
    if clash := next((p for _, path in entries for p in path.parents if str(p).casefold() in seen), None):
        raise ArchiveRefused(f"{archive.name} holds {clash} as a file and as a folder: pack it again")
    if len(entries) > limits.files:
        raise ArchiveRefused(_too_many(archive, len(entries), limits))
    if not entries:
        raise ArchiveRefused(f"{archive.name} holds no files")
    stated = sum(info.file_size for info, _ in entries)
    if stated > min(limits.bytes, limits.room * free):
        raise ArchiveRefused(
            f"{archive.name} would unpack to {stated / 1e9:,.1f} GB: at most "
            f"{min(limits.bytes, limits.room * free) / 1e9:,.1f} GB are taken here. Upload it in parts, or "
            "`evergreen ingest` the folder on the machine itself"
        )
    return entries


def _safe_path(info: zipfile.ZipInfo, archive: Path) -> PurePosixPath:
    name = info.filename.replace("\\", "/")
    path = PurePosixPath(name)
    bad = path.is_absolute() or ".." in path.parts or "\0" in name or (path.parts and ":" in path.parts[0])
    if bad or not path.parts:
        raise ArchiveRefused(f"{archive.name} holds a path that leaves its folder ({info.filename[:100]!r})")
    if len(path.parts) > DEEPEST or any(len(part.encode("utf-8", "replace")) > LONGEST for part in path.parts):
        raise ArchiveRefused(f"{archive.name} holds a path that is too long or too deep ({info.filename[:100]!r})")
    return path


def _write(opened: zipfile.ZipFile, entries: list, to: Path, limits: Limits, packed: int) -> None:
    written = 0
    allowed = min(limits.bytes, limits.ratio * packed + (1 << 20))
    for info, path in entries:
        target = to / path
        make_folder(target.parent)
        with opened.open(info) as source, open(target, "wb", opener=open_private) as file:
            while chunk := source.read(CHUNK):
                written += len(chunk)
                if written > allowed:
                    raise ArchiveRefused(
                        f"{Path(opened.filename).name} unpacks to more than {allowed / 1e6:,.0f} MB, {limits.ratio} "
                        "times its own size or more than is taken: images do not shrink so much"
                    )
                file.write(chunk)


def _too_many(archive: Path, found: int, limits: Limits) -> str:
    return (
        f"{archive.name} holds {found:,} files: at most {limits.files:,} are taken here. Upload it in parts, or "
        "`evergreen ingest` the folder on the machine itself"
    )
