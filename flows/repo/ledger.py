"""The ledgers in DVC's cache and remotes: a folder `evergreen` next to DVC's own.

DVC ignores that folder: it knows objects by their two-letter folders. `dvc gc` knows no ledgers: it deletes what the
project in which it runs does not need.
"""

from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from flows.repo.outs import Listings, Out
from flows.repo.remotes import open_remote
from tasks.common.files import atomic_path, sweep
from tasks.common.owner import owner_of
from tasks.common.paths import main_checkout
from tasks.common.private import make_folder
from tasks.storage.blobs import without_secrets
from tasks.storage.ledgers import claim

FOLDER = "evergreen"


class BesideObjects:
    """Ledger files of one DVC cache or remote: `tasks.storage.ledgers.Files` for its object database."""

    def __init__(self, odb):
        fs, path = odb.fs, odb.path  # <place>/files/md5
        self.fs = fs
        self.top = fs.parent(fs.parent(path)) if fs.parts(path)[-2:] == ("files", "md5") else path
        self.folder = fs.join(self.top, FOLDER)
        self.local = fs.protocol == "local"
        self.place = self.top if self.local else without_secrets(fs.unstrip_protocol(self.top))

    def list(self) -> list[str]:
        if not self.local:
            self.fs.fs.invalidate_cache()  # listings that s3fs cached before other processes wrote
        if not self.fs.exists(self.folder):
            return []
        found = ("/".join(self.fs.parts(path)[-2:]) for path in self.fs.find(self.folder))
        return [name for name in found if not name.rpartition("/")[2].startswith(".")]  # being written

    def read(self, name: str) -> bytes | None:
        try:
            with self.fs.open(self._path(name), "rb") as stream:
                return stream.read()
        except FileNotFoundError:
            return None

    def write(self, name: str, content: bytes) -> None:
        path = self._path(name)
        if not self.local:
            self.fs.pipe_file(path, content)
            return
        file = Path(path)
        for folder in (file.parent.parent, file.parent):  # in a cache of several users, theirs too
            _make_folder(folder, Path(self.top))
        sweep(file.parent, ".*.tmp")
        with atomic_path(file) as temporary:
            temporary.write_bytes(content)
            temporary.chmod(Path(self.top).stat().st_mode & 0o666 | 0o600)

    def remove(self, name: str) -> None:
        with suppress(FileNotFoundError):
            self.fs.remove(self._path(name))

    def _path(self, name: str) -> str:
        return self.fs.join(self.folder, *name.split("/"))


def _make_folder(folder: Path, like: Path) -> None:
    """Make `folder` with the rights of the folder `like`, whatever the umask."""
    make_folder(like)
    if not folder.is_dir():
        folder.mkdir(exist_ok=True)
        folder.chmod(like.stat().st_mode & 0o7777)


def is_private(files: BesideObjects, root: Path) -> bool:
    """Does this place lie inside of the project, where others come only by pointing at it?"""
    return files.local and Path(files.top).resolve().is_relative_to(main_checkout(root).resolve())


def claim_objects(root: Path, odb, oids: Iterable[str]) -> None:
    """Write `oids` into this checkout's ledger in `odb`, before it stores them there or relies on them."""
    claim(BesideObjects(odb), owner_of(root), set(oids))


def claim_outs(repo, outs: Iterable[Any]) -> None:
    """Claim in the cache all that DVC's outputs `outs` (in the workspace) consist of, before they are committed.

    DVC remembers the hashes, so the files are read once. Outputs that git stores are claimed as well: DVC's run cache
    keeps a copy.
    """
    oids: set[str] = set()
    for out in outs:
        if out.exists:
            oids |= _workspace_oids(repo, out.fs_path, out.hash_name)
    claim_objects(Path(repo.root_dir), repo.cache.local, oids)


def claim_folder(repo, folder: Path) -> None:
    """Claim in the cache all that `folder` consists of, before DVC adds it."""
    if folder.is_dir():
        claim_objects(Path(repo.root_dir), repo.cache.local, _workspace_oids(repo, str(folder), "md5"))


def claim_recorded(repo, outs: Collection[Out]) -> None:
    """Claim in the cache what `outs` consist of, as far as their listings can be read."""
    objects, _ = Listings(repo).objects(list(outs))
    claim_objects(Path(repo.root_dir), repo.cache.local, (found.oid for found in objects))


def claim_pulled(repo, outs: Collection[Out]) -> None:
    """Claim in the remotes what `outs` consist of, where this user may write there.

    A remote that is only read cannot hold the claim. A gc of those who write there then does not know of this checkout.
    """
    with suppress(Exception):  # each kind of remote raises its own types; what else is wrong, the pull itself tells
        claim_pushed(repo, outs, make=False)


def claim_pushed(repo, outs: Collection[Out], make: bool = True) -> None:
    """Claim in each remote what `outs` consist of, before it is pushed or relied on.

    make: also in a folder that does not exist yet.
    """
    objects, _ = Listings(repo).objects([out for out in outs if out.push])
    for remote in {found.remote for found in objects}:
        oids = (found.oid for found in objects if found.remote == remote)
        odb = open_remote(repo, remote)
        if make or odb.fs.protocol != "local" or Path(BesideObjects(odb).top).is_dir():
            claim_objects(Path(repo.root_dir), odb, oids)


def _workspace_oids(repo, path: str, hash_name: str) -> set[str]:
    from dvc_data.hashfile.build import build
    from dvc_data.hashfile.tree import Tree

    _, _, found = build(repo.cache.local, path, repo.fs, hash_name, ignore=repo.dvcignore, dry_run=True)
    oids = {found.hash_info.value}
    if isinstance(found, Tree):
        oids |= {entry.value for _, _, entry in found}
    return oids
