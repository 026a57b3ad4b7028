"""Find which images are meant and what holds them, by reading the files themselves.

Every Parquet file, page, table and picture in DVC's cache and remotes is read, every bundle, and every file of the
production log. Unreferenced files are searched too: they still contain the image. In a shared cache or remote, files
that only others use are searched for the image itself; what their sources are called does not count.
"""

import re
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from flows.erasure.places import HEAD, LARGEST, SEARCHED, Seen
from flows.publishing import registry
from flows.repo.git import git
from flows.repo.odb import list_oids
from flows.repo.outs import Listings, recorded_outs, recorded_outs_of
from flows.repo.pipeline import open_repo
from flows.repo.remotes import all_object_databases
from flows.versions.retained import branch_tips, retained
from flows.versions.sharing import Sharing, sharing
from tasks.common.checks import Frozen
from tasks.common.errors import EvergreenError
from tasks.common.files import sha256_bytes
from tasks.common.params import Params
from tasks.erasure.files import is_text, look, rows_about
from tasks.erasure.known import Known, learn, learn_others
from tasks.erasure.traces import Search, Traces
from tasks.ingest import erase
from tasks.labels.names import START
from tasks.releases import bundle_store
from tasks.releases.store import Releases
from tasks.storage.blobs import Store

MISTAKES = ("artifacts/evaluate/report.json", "artifacts/evaluate/plots/worst.png")  # ids, and their picture
OBJECTS = "DVC cache and remotes"


class ErasurePlan(Frozen):
    """What an erasure changes. It contains nothing that identifies a person."""

    ids: list[str]
    shards: list[str] = []  # names of the shards that hold the images, of all versions
    objects: list[str] = []  # md5 of DVC objects that show or name them
    shared: dict[str, list[str]] = {}  # those of them that others use too -> "place: who" of each
    bundles: list[str] = []  # digests of bundles whose reference shows them
    logged: list[str] = []  # keys of the production log
    versions: list[str] = []  # versions that can no longer be restored whole; their models were made with the images
    branches: int = 0  # commits of other branches whose data held them

    def sentence(self) -> str:
        """A summary for the terminal and the ledger."""
        return (
            f"{len(self.ids)} image(s): {len(self.shards)} shard(s), {len(self.objects)} DVC object(s)"
            f"{f' ({len(self.shared)} of them used by others)' if self.shared else ''}, "
            f"{len(self.bundles)} bundle(s), {len(self.logged)} file(s) of the production log"
        )


def matching_ids(root: Path, params: Params, needed: Collection[str], what: str) -> set[str]:
    """Ids of the images that `what` names; needed: objects of this project (`needed_objects`).

    It is an id, a key or a path, the name of a source or group; or else one image's file name, the end of its path or
    the start of its id. Raises EvergreenError if it is that of several.
    """
    if re.fullmatch(r"[0-9a-f]{64}", what):
        return {what}
    found: set[str] = set()
    started: set[str] = set()
    filed: set[str] = set()
    start = what if START.fullmatch(what) else None

    def match(file: Path | BinaryIO) -> None:
        found.update(erase.ids_of(file, what))
        filed.update(erase.ids_of_file(file, what))
        if start:
            started.update(erase.ids_starting(file, start))

    for path in (root / "data").glob("*.parquet"):
        match(path)
    for oid, stream, places in stored_objects(root, needed, (erase.MAGIC,)):
        if any(place.is_ours(oid) for place in places):
            match(stream)
    log = log_store(root, params)
    for key in log_keys(log):
        with log.open(key) as stream:
            match(pa.BufferReader(stream.read()))
    if not found and len(filed) > 1:
        shown = ", ".join(name[:12] for name in sorted(filed)[:3])
        raise EvergreenError(
            f"{what!r} is the file name of {len(filed)} images ({shown}{', ...' if len(filed) > 3 else ''}): "
            "give the id or the whole path of the one that is meant"
        )
    if not (found or filed) and len(started) > 1:
        raise EvergreenError(f"{what!r} is the start of {len(started)} ids: give more of it")
    return found or filed or started


def known_of(root: Path, params: Params, needed: Collection[str], ids: Collection[str]) -> Traces:
    """Everything that the project knows about `ids`: keys, paths, what they look like."""
    known, log = Known(), log_store(root, params)
    files = sorted((root / "data").glob("*.parquet"))
    for path in files:
        learn(known, path, ids)
    for key in log_keys(log):
        with log.open(key) as stream:
            learn(known, pa.BufferReader(stream.read()), ids)
    for _, stream, _ in stored_objects(root, needed, (erase.MAGIC,)):
        learn(known, stream, ids)
    for path in files:
        learn_others(known, path, ids)
    for key in log_keys(log):
        with log.open(key) as stream:
            learn_others(known, pa.BufferReader(stream.read()), ids)
    return known.traces(ids)


def plan_erasure(
    root: Path,
    params: Params,
    releases: Releases,
    needed: Collection[str],
    search: Search,
    step: Callable[[str], None],
) -> tuple[ErasurePlan, list[Seen]]:
    """What data/, DVC, bundles and log hold of the traces, and what was read; `step` receives what is being read."""
    ids = search.ids
    data, cached, stored, logs = Seen("data/"), Seen(OBJECTS), Seen("release store: bundles"), Seen("production log")
    names, objects = set(), set()
    for file in sorted((root / "data").rglob("*")):
        if file.is_file():
            data.read += 1
            with open(file, "rb") as stream:
                hits = _hits(stream, search, file.name)
            if hits:
                data.count(hits, str(file.relative_to(root)))
                names.add(file.name)
    step("looking through DVC's cache and remote")
    shared: dict[str, list[str]] = {}
    for oid, stream, places in stored_objects(root, needed):
        cached.read += 1
        if hits := _hits(stream, search):
            cached.count(hits, oid)
            objects.add(oid)
            if users := [f"{place.place}: {who}" for place in places for who in place.users(oid)]:
                shared[oid] = users
            stream.seek(0)
            names.add(f"{sha256_bytes(stream.read())[:24]}.parquet")  # a reference's name matches no shard: harmless
    versions, tips, pictures = _versions(root, params, releases, objects, ids)
    step("looking through the release store and the log")
    bundles = []
    for digest, _, table in references(releases.store):
        stored.read += 1
        if found := ids & set(table["id"].to_pylist()):
            stored.count({"id": len(found)}, digest)
            bundles.append(digest)
    log, logged = log_store(root, params), []
    for key in log_keys(log):
        with log.open(key) as stream:
            logs.read += 1
            if hits := look(stream.read(), key, search).hits:
                logs.count(hits, key)
                logged.append(key)
    plan = ErasurePlan(
        ids=sorted(ids),
        shards=sorted(names),
        objects=sorted(objects | pictures),
        shared=shared,
        bundles=bundles,
        logged=logged,
        versions=versions,
        branches=tips,
    )
    return plan, [data, cached, stored, logs]


def _hits(stream: BinaryIO, search: Search, name: str = "") -> dict[str, int]:
    """Traces in a file of data/ or an object of DVC; of a Parquet file only the columns that may hold some are read."""
    head = stream.read(4)
    stream.seek(0)
    if head != erase.MAGIC:
        return look(stream.read(), name, search).hits
    try:
        found = rows_about(pq.ParquetFile(stream), search)
    except (OSError, pa.ArrowException):
        return {}
    return {how: list(found.values()).count(how) for how in set(found.values())}


def stored_objects(
    root: Path, needed: Collection[str], kinds: tuple[bytes, ...] | None = None
) -> Iterator[tuple[str, BinaryIO, list[Sharing]]]:
    """(md5, open stream, the places that hold it) of every file in DVC's cache and remotes, referenced or not.

    Only what may hold traces: Parquet, pictures, text. kinds: only what begins with one of these. A stream is valid
    until the next item. needed: objects of this project's versions.
    """
    repo = open_repo(root)
    try:
        done: set[str] = set()
        held = [(odb, set(list_oids(odb)), sharing(root, odb, needed)) for odb in all_object_databases(repo)]
        for odb, oids, _ in held:
            for oid in sorted(oids - done):
                if oid.endswith(".dir"):
                    continue
                with suppress(FileNotFoundError), odb.fs.open(odb.oid_to_path(oid), "rb") as stream:
                    head = stream.read(HEAD)
                    done.add(oid)
                    wanted = head.startswith(kinds) if kinds else head.startswith(SEARCHED) or is_text(head)
                    if not wanted or (odb.fs.size(odb.oid_to_path(oid)) > LARGEST and head[:4] != erase.MAGIC):
                        continue
                    stream.seek(0)
                    yield oid, stream, [place for _, there, place in held if oid in there]
    finally:
        repo.close()


def needed_objects(root: Path, params: Params, releases: Releases) -> set[str]:
    """Objects of this project's versions, branches and checkout."""
    repo = open_repo(root)
    try:
        revs = {found.rev for found in retained(root, releases, params.bundle.name)} | set(branch_tips(root))
        outs = recorded_outs_of(repo, [rev for rev in revs if registry.has_commit(root, rev)])
        recorded = [*recorded_outs(repo), *(out for found in outs.values() for out in found)]
        return {found.oid for found in Listings(repo).objects(recorded)[0]}
    finally:
        repo.close()


def _versions(
    root: Path, params: Params, releases: Releases, objects: Collection[str], ids: Collection[str]
) -> tuple[list[str], int, set[str]]:
    """Versions whose data holds one of `objects`, how many other branches' data does, and the pictures of `ids`."""
    repo = open_repo(root)
    try:
        listings = Listings(repo)
        versions = retained(root, releases, params.bundle.name)
        tips = set(branch_tips(root)) - {git(root, "rev-parse", "HEAD")}
        revs = {found.rev for found in versions} | tips
        outs = recorded_outs_of(repo, [rev for rev in revs if registry.has_commit(root, rev)])
        holds: dict[str, bool] = {}
        pictures: set[str] = set()
        for rev, recorded in outs.items():
            found = {wanted.path: wanted.oid for wanted in listings.objects(recorded)[0]}
            holds[rev] = any(oid in objects for path, oid in found.items() if path.startswith("data/"))
            if MISTAKES[0] in found and MISTAKES[1] in found and _mentions(repo, found[MISTAKES[0]], ids):
                pictures.add(found[MISTAKES[1]])
        lost = [found.name for found in versions if holds.get(found.rev)]
        return lost, sum(holds.get(tip, False) for tip in tips), pictures
    finally:
        repo.close()


def _mentions(repo, oid: str, ids: Collection[str]) -> bool:
    for odb in all_object_databases(repo):
        with suppress(FileNotFoundError), odb.fs.open(odb.oid_to_path(oid), "rb") as stream:
            text = stream.read().decode(errors="replace")
            return any(image in text for image in ids)
    return False


def references(store: Store) -> Iterator[tuple[str, str, pa.Table]]:
    """(bundle digest, sha256 of its reference, ids) of every bundle whose reference is in the store."""
    for key in list(store.list("bundles/")):
        named = bundle_store.files(store.read(key)[0], key)
        sha256 = named.get("reference.parquet")
        found = store.read(f"objects/{sha256}") if sha256 else None
        if found is not None:
            table = pq.read_table(pa.BufferReader(found[0]), columns=["id"])
            yield key.removeprefix("bundles/").removesuffix(".json"), sha256, table


def log_store(root: Path, params: Params) -> Store:
    """The store of the project's production log."""
    from monitoring.log.production_log import open_log

    return open_log(root, params).store


def log_keys(log: Store) -> list[str]:
    """Keys of the log's Parquet files."""
    return [key for key in log.list("") if key.endswith(".parquet")]
