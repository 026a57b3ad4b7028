"""Bundles in a store: immutable objects named by their sha256, and a manifest written last.

    bundles/<digest>.json      MANIFEST.json of a bundle, byte for byte; its sha256 is the bundle's digest
    objects/<sha256>           the bundles' files, shared between bundles
    redacted/<digest>.json     {"bundle": <digest>}: the bundle that stands in for one with erased images

So a bundle with a manifest is complete, every object can be checked against its own name, and a repeated upload
changes nothing.
"""

import hashlib
import json
import logging
import os
import re
from pathlib import Path, PurePosixPath
from typing import Any

from tasks.common.errors import EvergreenError
from tasks.common.failpoints import failpoint
from tasks.common.files import atomic_dir, fsync_dir, fsync_file, sha256_bytes, sha256_file
from tasks.common.private import make_folder
from tasks.releases.bundle import MANIFEST
from tasks.storage.blobs import Conflict, Content, Store


class StoreDamaged(EvergreenError):
    """Content of the store is missing, damaged or unexpected; the text names every place."""


def put(store: Store, folder: Path) -> str:
    """Upload the bundle in `folder`; returns its digest. A damaged object in the store is replaced.

    Raises EvergreenError if a file differs from MANIFEST.json.
    """
    manifest = _manifest(folder)
    for name, sha256 in files(manifest, folder / MANIFEST).items():
        file = folder / name
        found = sha256_file(file) if file.is_file() else "nothing"
        if found != sha256:
            raise EvergreenError(
                f"{file} is not what {MANIFEST} says: expected sha256 {sha256}, found {found}. Remove the folder and "
                "run the bundle stage again."
            )
        _put(store, f"objects/{sha256}", file)
        failpoint("store.object")
    digest = sha256_bytes(manifest)
    _put(store, f"bundles/{digest}.json", manifest)
    return digest


def keys(folder: Path) -> set[str]:
    """Keys of all that `put` uploads. Raises EvergreenError if `folder` holds no bundle."""
    manifest = _manifest(folder)
    named = files(manifest, folder / MANIFEST).values()
    return {f"bundles/{sha256_bytes(manifest)}.json", *(f"objects/{sha256}" for sha256 in named)}


def resolve(store: Store, digest: str) -> str:
    """The digest under which bundle `digest` is stored now: its own, unless images in it were erased."""
    while found := store.read(f"redacted/{digest}.json"):
        digest = json.loads(found[0])["bundle"]
    return digest


def damage(store: Store, digest: str) -> list[str]:
    """Read bundle `digest` back and hash every object: one phrase per problem; empty if the bundle is intact."""
    digest = resolve(store, digest)
    key = f"bundles/{digest}.json"
    manifest = store.read(key)
    if manifest is None:
        return [f"{key} is missing"]
    if (found := sha256_bytes(manifest[0])) != digest:
        return [f"{key} is damaged (its sha256 is {found})"]
    problems = []
    for name, sha256 in files(manifest[0], key).items():
        found = _copy(store, f"objects/{sha256}", Path(os.devnull))
        if found is None:
            problems.append(f"objects/{sha256} ({name}) is missing")
        elif found != sha256:
            problems.append(f"objects/{sha256} ({name}) is damaged (its sha256 is {found})")
    return problems


def audit(store: Store, digest: str) -> None:
    """Raises StoreDamaged naming every object of bundle `digest` that is missing or damaged."""
    if problems := damage(store, digest):
        raise StoreDamaged(
            f"bundle {digest} in the release store is damaged: {'; '.join(problems)}. Publish it again from its "
            "run's workspace, or restore these files from a backup."
        )


def get(store: Store, digest: str, dest: Path) -> Path:
    """Restore bundle `digest` as folder `dest`, with every file hashed; `dest` appears complete or not at all.

    A `dest` that already is this bundle stays. A bundle with erased images is replaced by its redacted one (see
    `resolve`). Raises StoreDamaged.
    """
    digest = resolve(store, digest)
    if _is_bundle(dest, digest):
        return dest
    key = f"bundles/{digest}.json"
    found = store.read(key)
    if found is None or sha256_bytes(found[0]) != digest:
        audit(store, digest)
    manifest = found[0]
    with atomic_dir(dest) as temporary:
        for name, sha256 in files(manifest, key).items():
            file = temporary / name
            make_folder(file.parent)
            if _copy(store, f"objects/{sha256}", file) != sha256:
                audit(store, digest)  # names every problem, not only the first
                raise StoreDamaged(f"objects/{sha256} ({name}) arrived damaged although the store's copy is intact")
        (temporary / MANIFEST).write_bytes(manifest)
        fsync_file(temporary / MANIFEST)
        fsync_dir(temporary)
    return dest


def read_file(store: Store, digest: str, name: str) -> bytes | None:
    """The file `name` of bundle `digest`, without fetching the others; None if the bundle or the file is missing.

    Raises StoreDamaged if it is not what the manifest says.
    """
    key = f"bundles/{resolve(store, digest)}.json"
    if (manifest := store.read(key)) is None:
        return None
    sha256 = files(manifest[0], key).get(name)
    found = store.read(f"objects/{sha256}") if sha256 else None
    if found is None:
        return None
    if sha256_bytes(found[0]) != sha256:
        raise StoreDamaged(f"objects/{sha256} ({name} of bundle {digest}) is damaged: restore it from a backup")
    return found[0]


def files(manifest: bytes, where: Path | str) -> dict[str, str]:
    """File name -> sha256 of a MANIFEST.json. Raises StoreDamaged for names that leave the bundle's folder."""
    try:
        found: dict[str, Any] = json.loads(manifest)["files"]
        for name, entry in found.items():
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts or name != str(path) or name in (".", MANIFEST):
                raise ValueError(f"{name!r} is not a file name inside the bundle")
            if not re.fullmatch(r"[0-9a-f]{64}", entry["sha256"]):
                raise ValueError(f"{name}: {entry['sha256']!r} is not a sha256")
        return {name: entry["sha256"] for name, entry in found.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreDamaged(f"{where} is not the manifest of a bundle: {error}") from None


def _manifest(folder: Path) -> bytes:
    if not (folder / MANIFEST).is_file():
        raise EvergreenError(f"{folder} holds no bundle (no {MANIFEST}): run the bundle stage first")
    return (folder / MANIFEST).read_bytes()


def _put(store: Store, key: str, content: Content) -> None:
    try:
        store.create(key, content)
    except Conflict:  # the key is the content's hash, so any other content is damage
        logging.getLogger(__name__).warning("%s in the release store was damaged and is replaced", key)
        store.swap(key, content, store.read(key)[1])


def _copy(store: Store, key: str, to: Path) -> str | None:
    """Stream `key` into file `to`, fsynced; returns the sha256 of the received bytes, None if the key is missing."""
    if (stream := store.open(key)) is None:
        return None
    digest = hashlib.sha256()
    with stream, open(to, "wb") as file:
        while block := stream.read(1 << 20):
            digest.update(block)
            file.write(block)
    if to != Path(os.devnull):
        fsync_file(to)
    return digest.hexdigest()


def _is_bundle(folder: Path, digest: str) -> bool:
    manifest = folder / MANIFEST
    if not manifest.is_file() or sha256_file(manifest) != digest:
        return False
    named = files(manifest.read_bytes(), manifest).items()
    return all((folder / name).is_file() and sha256_file(folder / name) == sha256 for name, sha256 in named)
