"""Everything that `evergreen gc` could delete, and whether a root needs it."""

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from flows.repo.odb import list_oids
from flows.repo.remotes import object_databases
from flows.versions.roots import Roots
from tasks.common.params import Params
from tasks.common.paths import state_dir
from tasks.releases.store import Releases

PER_SHARD = ("inspect", "pixels", "features")  # caches with one file per shard, under a folder per code and params


@dataclass(frozen=True)
class Stored:
    """One file, object or folder that could be deleted."""

    size: int  # bytes
    changed: float  # time of the last change, seconds since 1970
    needed: bool  # by a root
    delete: Callable[[], object]


def inventory(
    root: Path, repo, releases: Releases, params: Params, roots: Roots
) -> Iterator[tuple[str, Iterator[Stored]]]:
    """(name of a place, what is stored there) for the release store, DVC's cache and remotes, and the caches."""
    yield "release store", _release_store(releases, roots)
    yield "DVC cache", _dvc_objects(repo.cache.local, roots)
    for remote in sorted(roots.remotes, key=str):
        for odb in object_databases(repo, remote)[1:]:
            yield f"DVC remote {remote or ''}".strip(), _dvc_objects(odb, roots)
    for name in (*PER_SHARD, "training", "bundles"):
        yield f"{name} cache", _cache(root, name, params, roots)


def _release_store(releases: Releases, roots: Roots) -> Iterator[Stored]:
    for prefix in ("bundles/", "objects/"):  # manifests first: a bundle whose manifest exists is complete
        for key in releases.store.list(prefix):
            size, at = releases.store.about(key)
            yield Stored(size, at.timestamp(), key in roots.keys, lambda key=key: releases.store.remove(key))


def _dvc_objects(odb, roots: Roots) -> Iterator[Stored]:
    for oid in sorted(list_oids(odb), key=lambda oid: (not oid.endswith(".dir"), oid)):  # listings first
        path = odb.oid_to_path(oid)
        info = odb.fs.info(path)
        local = odb.fs.protocol == "local"  # a hard link into the cache changes ctime; mtime is the original file's
        at = os.stat(path).st_ctime if local else info["LastModified"].timestamp()
        yield Stored(info["size"], at, oid in roots.oids, lambda oid=oid: odb.delete(oid))


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
                yield Stored(about.st_size, about.st_ctime, needed, lambda file=file: file.unlink(missing_ok=True))
        else:
            size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
            needed = name == "bundles" and path.name in roots.digests
            yield Stored(size, _newest(path), needed, lambda path=path: shutil.rmtree(path, ignore_errors=True))


def _newest(folder: Path) -> float:
    return max(path.stat().st_ctime for path in (folder, *folder.rglob("*")))
