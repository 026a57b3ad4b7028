"""Read what a commit records in DVC from DVC's cache or remote, never from a checkout.

Every object is hashed while it is read. If the copy in one place is missing or damaged, the other place is read. DVC
names a file by its md5, and a folder by the md5 of its listing followed by ".dir".
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from flows.repo.git import git
from flows.repo.remotes import object_databases
from tasks.common.errors import EvergreenError
from tasks.common.files import parse_yaml
from tasks.common.paths import main_checkout
from tasks.common.private import make_folder
from tasks.ingest.erasures import erased_objects

BLOCK = 1 << 20  # bytes read at once


class ObjectLost(EvergreenError):
    """Neither DVC's cache nor its remote has an undamaged copy of an object; the text names every place."""


def file_at(root: Path, rev: str, path: str) -> str | None:
    """The text of `path` in commit `rev`; None if the commit has no such file."""
    if not git(root, "ls-tree", "--name-only", rev, "--", path):
        return None
    return git(root, "show", f"{rev}:{path}")


def yaml_at(root: Path, rev: str, path: str) -> Any:
    """The parsed YAML (or JSON) file `path` of commit `rev`; {} if the commit has no such file."""
    return parse_yaml(file_at(root, rev, path) or "") or {}


def outs_at(root: Path, rev: str) -> dict[str, str]:
    """Path -> object id of everything that commit `rev` stores in DVC: data.dvc and the stages of dvc.lock."""
    found = {out["path"]: out["md5"] for out in yaml_at(root, rev, "data.dvc").get("outs", [])}
    uncached = set(_uncached(yaml_at(root, rev, "dvc.yaml")))
    for stage in yaml_at(root, rev, "dvc.lock").get("stages", {}).values():
        found |= {out["path"]: out["md5"] for out in stage.get("outs", []) if out["path"] not in uncached}
    return found


def _uncached(pipeline: dict) -> Iterator[str]:
    """Outputs that git stores, not DVC (`cache: false`)."""
    for stage in pipeline.get("stages", {}).values():
        for kind in ("outs", "metrics", "plots"):
            for entry in stage.get(kind, []):
                if isinstance(entry, dict):
                    yield from (path for path, about in entry.items() if not (about or {}).get("cache", True))


class Objects:
    """Objects of the project's DVC cache and default remote; see `open_objects`."""

    def __init__(self, repo):
        self._databases = object_databases(repo, None)
        self._erased = erased_objects(Path(repo.root_dir))  # another project may keep them in a shared cache

    def read(self, oid: str) -> bytes:
        """The content of object `oid`. Raises ObjectLost."""
        parts: list[bytes] = []
        self._read_checked(oid, parts.append, parts.clear)
        return b"".join(parts)

    def copy(self, oid: str, to: Path) -> None:
        """Write object `oid` as the new file `to`. Raises ObjectLost."""
        make_folder(to.parent)
        with open(to, "wb") as file:
            self._read_checked(oid, file.write, lambda: (file.seek(0), file.truncate()))
            file.flush()
            os.fsync(file.fileno())

    def files(self, oid: str) -> dict[str, str]:
        """Path -> object id of the folder `oid`. Raises ObjectLost, and EvergreenError for a path that leaves it."""
        listing = {entry["relpath"]: entry["md5"] for entry in json.loads(self.read(oid))}
        for name in listing:
            if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
                raise EvergreenError(f"the listing {oid} names {name!r}, a path outside of its folder")
        return listing

    def lost(self, oids: Iterable[str]) -> list[str]:
        """Hash every object and describe each one without an undamaged copy; empty if all are well."""
        problems = []
        for oid in sorted(set(oids)):
            try:
                self._read_checked(oid, lambda _: None, lambda: None)
            except ObjectLost as lost:
                problems.append(str(lost))
        return problems

    def _read_checked(self, oid: str, write, restart) -> None:
        """Pass the blocks of `oid` to `write`; call `restart` before each place that is tried."""
        if oid in self._erased:
            raise ObjectLost(f"{oid} held an image that was erased on request")
        tried = []
        for database in self._databases:
            path = database.oid_to_path(oid)
            restart()
            digest, blocks = hashlib.md5(usedforsecurity=False), _blocks(database, path)  # DVC names objects by md5
            while True:
                try:
                    block = next(blocks, None)
                except FileNotFoundError:
                    tried.append(f"{path} is missing")
                    break
                except Exception as error:  # each kind of remote raises its own types
                    tried.append(f"{path} cannot be read ({type(error).__name__}: {error})")
                    break
                if block is not None:
                    digest.update(block)
                    write(block)
                elif digest.hexdigest() == oid.removesuffix(".dir"):
                    return
                else:
                    tried.append(f"{path} is damaged (its md5 is {digest.hexdigest()})")
                    break
        raise ObjectLost(" and ".join(tried))


def _blocks(database, path: str) -> Iterator[bytes]:
    with database.fs.open(path, "rb") as stream:
        while block := stream.read(BLOCK):
            yield block


@contextmanager
def open_objects(root: Path) -> Iterator[Objects]:
    """Open the objects of the project that `root` is a checkout of. This takes half a second."""
    from flows.repo.pipeline import open_repo

    repo = open_repo(main_checkout(root))
    try:
        yield Objects(repo)
    finally:
        repo.close()
