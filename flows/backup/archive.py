"""A backup as one file: a tar of plain files, with a manifest of their digests at its end.

    state/...       files of .evergreen, by their path there
    log/...         the production log, if it is a folder
    store/...       the release store, if it is a folder
    git.bundle      branches, tags and held runs
    objects/<md5>   objects of DVC, with --data
    manifest.json   what it is, and the sha256 and size of every other file; last, so a torn archive has none

Nothing is taken from an archive before every digest was compared. Links, devices and paths that leave the folder are
refused.
"""

import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from tasks.common.checks import Frozen
from tasks.common.errors import DamagedFile, EvergreenError, refuse_newer
from tasks.common.files import atomic_path

SCHEMA = 1
MANIFEST = "manifest.json"
BLOCK = 1 << 20
PARTS = ("state", "log", "store", "objects")
LARGEST_MANIFEST = 256 << 20  # bytes


class Member(Frozen):
    """One file of an archive."""

    sha256: str
    bytes: int


class Manifest(Frozen):
    """What an archive holds, and where it comes from."""

    version: int = SCHEMA
    evergreen: str  # the version that made it
    at: str  # UTC, ISO 8601
    by: str
    host: str
    path: str  # of the project
    project: str  # bundle.name
    checkout: str  # its id
    head: str  # commit
    branch: str
    left_out: list[str]  # what it does not hold, in words
    files: dict[str, Member]


def write_archive(path: Path, members: Iterable[tuple[str, Path | bytes]], about: dict[str, Any]) -> Manifest:
    """Write `members` (name, file or content) and the manifest to `path`, whole or not at all; only its owner may read.

    A file that vanishes before its turn is left out; one that changes while it is read raises EvergreenError.
    """
    files: dict[str, Member] = {}
    with atomic_path(path) as temporary:
        temporary.chmod(0o600)
        with tarfile.open(temporary, "w", format=tarfile.PAX_FORMAT) as tar:
            for name, source in members:
                if (member := _add(tar, name, source)) is not None:
                    files[name] = member
            manifest = Manifest(**about, files=files)
            _add(tar, MANIFEST, manifest.model_dump_json(indent=1).encode())
    return manifest


def read_manifest(path: Path) -> Manifest:
    """What the archive at `path` says of itself. Raises EvergreenError if it is not a whole backup."""
    with _opened(path) as tar:
        members = tar.getmembers()
        last = members[-1] if members else None
        if last is None or last.name != MANIFEST or not last.isreg() or last.size > LARGEST_MANIFEST:
            raise EvergreenError(
                f"{path} is not a whole backup: expected {MANIFEST} as its last file, found "
                f"{last.name[:60] if last else 'nothing'!r}. Use another backup."
            )
        try:
            values = json.loads(tar.extractfile(last).read())
            refuse_newer(values.get("version"), SCHEMA, str(path))
            return Manifest.model_validate(values)
        except (ValueError, AttributeError) as error:
            raise EvergreenError(f"{MANIFEST} in {path} cannot be read ({error}): use another backup") from None


def unpack(path: Path, manifest: Manifest, folder: Path) -> None:
    """Write every file of the archive under `folder` and compare its digest. Raises EvergreenError at the first wrong
    one; `folder` is then worth nothing."""
    left = dict(manifest.files)
    with _opened(path) as tar:
        for entry in tar:
            if entry.name == MANIFEST:
                continue
            check_name(entry.name, path)
            if not entry.isreg():
                raise EvergreenError(f"{entry.name[:100]!r} in {path} is not a plain file: nothing was restored")
            if (member := left.pop(entry.name, None)) is None:
                raise EvergreenError(f"{path} holds {entry.name[:100]!r}, which its manifest does not list, or twice")
            target = folder / entry.name
            target.parent.mkdir(parents=True, exist_ok=True)
            with open(target, "xb") as out:
                target.chmod(0o600)
                found = _copy(tar.extractfile(entry), out)
            if found != member:
                raise DamagedFile(path, member.sha256, found.sha256, f"{entry.name[:100]!r}", "Use another backup.")
    if left:
        raise EvergreenError(f"{path} lacks {min(left)!r}, which its manifest lists: use another backup")


def check_name(name: str, path: Path) -> None:
    """Raise EvergreenError unless `name` is a path that stays under the folder of its part."""
    parts = PurePosixPath(name).parts
    whole = name == "/".join(parts) and "\\" not in name and "\0" not in name
    inside = parts and not name.startswith("/") and ".." not in parts
    if not whole or not inside or ((parts[0] not in PARTS or len(parts) < 2) and name != "git.bundle"):
        raise EvergreenError(f"{path} names {name[:100]!r}, which is not a place of a project's state: nothing is done")


@contextmanager
def _opened(path: Path) -> Iterator[tarfile.TarFile]:
    try:
        with tarfile.open(path, "r:") as tar:
            yield tar
    except (tarfile.TarError, EOFError) as error:
        raise EvergreenError(f"{path} cannot be read as a backup ({error}): use another one") from None
    except FileNotFoundError:
        raise EvergreenError(f"{path} does not exist: name a file that `evergreen backup` made") from None


def _add(tar: tarfile.TarFile, name: str, source: Path | bytes) -> Member | None:
    try:
        stream = io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb")  # noqa: SIM115
    except FileNotFoundError:
        return None
    with stream:
        entry = tarfile.TarInfo(name)
        entry.mode = 0o600
        entry.size = stream.seek(0, io.SEEK_END)
        stream.seek(0)
        hashed = _Hashed(stream)
        try:
            tar.addfile(entry, hashed)
        except OSError as error:
            if "unexpected end of data" in str(error):
                raise EvergreenError(f"{source} became shorter while it was read: make the backup again") from None
            raise
        return Member(sha256=hashed.digest.hexdigest(), bytes=entry.size)


class _Hashed:
    """A stream that hashes what is read from it."""

    def __init__(self, stream: BinaryIO):
        self._stream, self.digest = stream, hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        block = self._stream.read(size)
        self.digest.update(block)
        return block


def _copy(source, out: BinaryIO) -> Member:
    digest, size = hashlib.sha256(), 0
    for block in _blocks(source):
        digest.update(block)
        size += len(block)
        out.write(block)
    return Member(sha256=digest.hexdigest(), bytes=size)


def _blocks(source) -> Iterator[bytes]:
    while block := source.read(BLOCK):
        yield block
