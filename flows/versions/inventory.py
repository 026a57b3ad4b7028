"""Everything that `evergreen gc` could delete, and whether a root needs it.

The release store, DVC's cache and its remotes may be shared with other checkouts and other projects: their ledgers say
what these need (tasks.storage.ledgers). The caches in .evergreen/cache belong to this checkout alone.
"""

import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from flows.repo.ledger import BesideObjects
from flows.repo.odb import list_oids
from flows.repo.remotes import object_databases
from flows.versions.roots import Roots
from tasks.common.params import Params
from tasks.common.paths import state_dir
from tasks.releases.store import Releases
from tasks.storage.ledgers import Files

MODELS = 3  # newest ones whose answers for corrupted images stay: champion, challenger, and one more
PER_SHARD = (
    "columns",
    "inspect",
    "pixels",
    "features",
)  # caches with one file per shard, under a folder per code and params


@dataclass(frozen=True)
class Stored:
    """One file, object or folder that could be deleted."""

    name: str
    size: int  # bytes
    changed: float  # time of the last change, seconds since 1970
    needed: bool  # by a root
    delete: Callable[[], object]


@dataclass(frozen=True)
class SharedPlace:
    """A place that other checkouts may use too. `files`: its ledgers."""

    name: str
    files: Files
    needed: Callable[[Roots], frozenset[str]]  # names of what the roots need here
    stored: Callable[[Roots], Iterator[Stored]]


def shared_places(repo, releases: Releases) -> list[SharedPlace]:
    """The release store, DVC's cache and its default remote."""
    store = SharedPlace(
        "release store", releases.owned.files, lambda roots: roots.keys, partial(_release_store, releases)
    )
    return [store, _dvc_place("DVC cache", repo.cache.local), *remote_places(repo, [None])]


def remote_places(repo, remotes: Iterable[str | None]) -> list[SharedPlace]:
    """DVC's remotes of these names; None: the default one."""
    found = []
    for remote in remotes:
        name = f"DVC remote {remote or ''}".strip()
        found += [_dvc_place(name, odb) for odb in object_databases(repo, remote)[1:]]
    return found


def _dvc_place(name: str, odb) -> SharedPlace:
    return SharedPlace(name, BesideObjects(odb), lambda roots: roots.oids, partial(_dvc_objects, odb))


def own_caches(root: Path, params: Params, roots: Roots) -> Iterator[tuple[str, Iterator[Stored]]]:
    """(name of a cache in .evergreen/cache, what is in it)."""
    for name in (*PER_SHARD, "training", "bundles", "corrupted"):
        yield f"{name} cache", _cache(root, name, params, roots)


def _release_store(releases: Releases, roots: Roots) -> Iterator[Stored]:
    for prefix in ("bundles/", "objects/"):  # manifests first: a bundle whose manifest exists is complete
        for key in releases.store.list(prefix):
            size, at = releases.store.about(key)
            yield Stored(key, size, at.timestamp(), key in roots.keys, lambda key=key: releases.store.remove(key))


def _dvc_objects(odb, roots: Roots) -> Iterator[Stored]:
    for oid in sorted(list_oids(odb), key=lambda oid: (not oid.endswith(".dir"), oid)):  # listings first
        path = odb.oid_to_path(oid)
        info = odb.fs.info(path)
        local = odb.fs.protocol == "local"  # a hard link into the cache changes ctime; mtime is the original file's
        at = os.stat(path).st_ctime if local else info["LastModified"].timestamp()
        yield Stored(oid, info["size"], at, oid in roots.oids, lambda oid=oid: odb.delete(oid))


def _cache(root: Path, name: str, params: Params, roots: Roots) -> Iterator[Stored]:
    """Everything here can be computed again; needed is what the next run over a root would look for."""
    folder = state_dir(root) / "cache" / name
    folders = sorted((path for path in folder.glob("*") if path.is_dir()), key=_newest)
    current = {path.name for path in folders[-1:]}
    if name == "features":
        from tasks.backbones.features import feature_folder
        from tasks.models.pretrained import network_key

        current = {feature_folder(root, params.images, network_key(params.embed)).name}
    for path in folders:
        if name in PER_SHARD:
            for file in sorted(path.iterdir()):
                about = file.stat()
                needed = path.name in current and file.name.partition(".")[0] in roots.shards
                yield Stored(
                    file.name, about.st_size, about.st_ctime, needed, lambda file=file: file.unlink(missing_ok=True)
                )
        else:
            size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
            needed = name == "bundles" and path.name in roots.digests
            needed |= name == "corrupted" and path in folders[-MODELS:]
            yield Stored(
                path.name, size, _newest(path), needed, lambda path=path: shutil.rmtree(path, ignore_errors=True)
            )


def _newest(folder: Path) -> float:
    return max(path.stat().st_ctime for path in (folder, *folder.rglob("*")))
