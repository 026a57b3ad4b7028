"""Where an image is: everything `evergreen forget` has to reach, found by looking into the files themselves.

Not only what versions name is looked at, but every Parquet file in DVC's cache and remotes, every bundle and every
file of the production log: bytes that nothing names any more are bytes all the same.
"""

import re
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from flows.publishing import registry
from flows.repo.git import git
from flows.repo.pipeline import open_repo
from flows.repo.remotes import places
from flows.versions.retained import Listings, Out, branch_tips, outs_at, retained
from tasks.common.checks import Frozen
from tasks.common.files import sha256_bytes
from tasks.common.params import Params
from tasks.ingest import erase
from tasks.releases import bundle_store
from tasks.releases.store import Releases
from tasks.storage.blobs import Store

MISTAKES = ("artifacts/evaluate/report.json", "artifacts/evaluate/plots/worst.png")  # ids, and their picture


class Plan(Frozen):
    """What an erasure touches. Nothing of it names a person."""

    ids: list[str]
    shards: list[str] = []  # names of the shards that hold them, of all versions
    objects: list[str] = []  # md5 of DVC objects that show them
    bundles: list[str] = []  # digests of bundles whose reference shows them
    logged: list[str] = []  # keys of the production log
    versions: list[str] = []  # whose data can no longer be restored whole; their models saw the images
    branches: int = 0  # other branches' commits whose data held them

    def sentence(self) -> str:
        """For the terminal and the ledger."""
        return (
            f"{len(self.ids)} image(s): {len(self.shards)} shard(s), {len(self.objects)} DVC object(s), "
            f"{len(self.bundles)} bundle(s), {len(self.logged)} file(s) of the production log"
        )


def ids_meant(root: Path, params: Params, what: str) -> set[str]:
    """The images meant by `what`: itself, or all of that source, in any version or the log."""
    if re.fullmatch(r"[0-9a-f]{64}", what):
        return {what}
    found: set[str] = set()
    for file in (root / "data").glob("*.parquet"):
        found |= erase.ids_with_source(file, what)
    for _, stream in _parquet_objects(root):
        found |= erase.ids_with_source(stream, what)
    log = log_of(root, params)
    for key in log_keys(log):
        with log.open(key) as stream:
            found |= erase.ids_with_source(pa.BufferReader(stream.read()), what)
    return found


def look(root: Path, params: Params, releases: Releases, ids: set[str], step: Callable[[str], None]) -> Plan:
    seen: set[str] = set()
    names, objects = set(), set()
    for file in (root / "data").glob("*.parquet"):
        if found := erase.ids_with_pixels(file, ids):
            seen |= found
            names.add(file.name)
    step("looking through DVC's cache and remote")
    for oid, stream in _parquet_objects(root):
        if found := erase.ids_with_pixels(stream, ids):
            seen |= found
            objects.add(oid)
            stream.seek(0)
            names.add(f"{sha256_bytes(stream.read())[:24]}.parquet")  # that of a reference names no shard: harmless
    versions, tips, pictures = _versions(root, params, releases, objects, ids)
    step("looking through the release store and the log")
    bundles = []
    for digest, _, table in references(releases.store):
        if found := ids & set(table["id"].to_pylist()):
            seen |= found
            bundles.append(digest)
    log, logged = log_of(root, params), []
    for key in log_keys(log):
        with log.open(key) as stream:
            if found := rows_of(stream.read(), ids):
                seen |= found
                logged.append(key)
    return Plan(
        ids=sorted(seen),
        shards=sorted(names),
        objects=sorted(objects | pictures),
        bundles=bundles,
        logged=logged,
        versions=versions,
        branches=tips,
    )


def _parquet_objects(root: Path) -> Iterator[tuple[str, BinaryIO]]:
    """(md5, its content until the next) of every Parquet file in DVC's cache and remotes, named by a version or not."""
    repo = open_repo(root)
    try:
        done = set()
        for odb in odbs(repo):
            for oid in odb._list_oids() if odb.fs.exists(odb.path) else ():
                if oid.endswith(".dir") or oid in done:
                    continue
                with odb.fs.open(odb.oid_to_path(oid), "rb") as stream:
                    if stream.read(4) == erase.MAGIC:
                        stream.seek(0)
                        done.add(oid)
                        yield oid, stream
    finally:
        repo.close()


def odbs(repo) -> list:
    """DVC's cache and all of its remotes."""
    found = [repo.cache.local]
    for name in repo.config["remote"]:
        found += places(repo, name)[1:]
    return found


def _versions(
    root: Path, params: Params, releases: Releases, objects: Collection[str], ids: Collection[str]
) -> tuple[list[str], int, set[str]]:
    """Versions whose data holds one of `objects`, how many other branches' does, and the pictures of `ids`."""
    repo = open_repo(root)
    try:
        listings = Listings(repo)
        versions = retained(root, releases, params.bundle.name)
        tips = set(branch_tips(root)) - {git(root, "rev-parse", "HEAD")}
        outs = outs_at(repo, _here(root, {found.rev for found in versions} | tips))
        held: dict[str, bool] = {}
        pictures: set[str] = set()
        for rev, named in outs.items():
            found = {wanted.path: wanted.oid for wanted in listings.objects(named)[0]}
            held[rev] = any(oid in objects for path, oid in found.items() if path.startswith("data/"))
            if MISTAKES[0] in found and MISTAKES[1] in found and _mentions(repo, found[MISTAKES[0]], named, ids):
                pictures.add(found[MISTAKES[1]])
        lost = [found.name for found in versions if held.get(found.rev)]
        return lost, sum(held.get(tip, False) for tip in tips), pictures
    finally:
        repo.close()


def _here(root: Path, revs: Collection[str]) -> list[str]:
    return [rev for rev in revs if registry.has_commit(root, rev)]


def _mentions(repo, oid: str, named: list[Out], ids: Collection[str]) -> bool:
    for odb in odbs(repo):
        with suppress(FileNotFoundError), odb.fs.open(odb.oid_to_path(oid), "rb") as stream:
            text = stream.read().decode(errors="replace")
            return any(image in text for image in ids)
    return False


def references(store: Store) -> Iterator[tuple[str, str, pa.Table]]:
    """(digest, sha256 of its reference, ids) of every bundle whose reference is there."""
    for key in list(store.list("bundles/")):
        named = bundle_store.files(store.read(key)[0], key)
        sha256 = named.get("reference.parquet")
        found = store.read(f"objects/{sha256}") if sha256 else None
        if found is not None:
            table = pq.read_table(pa.BufferReader(found[0]), columns=["id"])
            yield key.removeprefix("bundles/").removesuffix(".json"), sha256, table


def log_of(root: Path, params: Params) -> Store:
    from monitoring.log.production_log import open_log

    return open_log(root, params).store


def log_keys(log: Store) -> list[str]:
    return [key for key in log.list("") if key.endswith(".parquet")]


def rows_of(content: bytes, ids: Collection[str]) -> set[str]:
    """Which of `ids` have rows in this Parquet file, with or without their pixels."""
    try:
        return ids & set(pq.read_table(pa.BufferReader(content), columns=["id"])["id"].to_pylist())
    except (OSError, pa.ArrowInvalid, KeyError):
        return set()  # torn: nothing can be read of it
