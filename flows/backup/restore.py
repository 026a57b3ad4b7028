"""`evergreen restore`: put a backup into a clone, on this machine or another.

First every digest of the archive is compared, then what was erased since is taken out, then files are placed: the
pointer of the release store last. Nothing is placed over other content without `force`, which sets that aside. A
restore that was killed is repeated by the same command.
"""

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from flows.backup.archive import Manifest, read_manifest, unpack
from flows.erasure.occurrences import references
from flows.erasure.places import clean_items, store_items
from flows.erasure.steps import redact
from flows.repo.git import git
from flows.repo.odb import add_local_file, hash_local_file
from flows.repo.pipeline import open_repo
from flows.repo.remotes import object_databases
from flows.repo.workspace import alive_runs
from tasks.common.errors import EvergreenError
from tasks.common.failpoints import failpoint
from tasks.common.files import fsync_file, read_json, sha256_file, try_locked, write_json
from tasks.common.owner import owner_of
from tasks.common.params import Params, load_params
from tasks.common.paths import main_checkout, state_dir
from tasks.common.private import make_folder
from tasks.erasure.files import look
from tasks.erasure.known import Known, learn
from tasks.erasure.traces import Search
from tasks.ingest import erasures
from tasks.releases.store import LIVE, TOMBSTONES, Releases, open_store
from tasks.storage.ledgers import StoreFiles, claim, read_ledgers
from tasks.storage.local import LocalStore
from tasks.storage.places import open_blobs

HELD = "refs/evergreen/restored"  # branches of the backup that this clone does not have
TOKEN = re.compile(rb"(?<![0-9A-Za-z])[0-9a-f]{64}(?![0-9A-Za-z])")
ASIDE = "replaced"  # folder of .evergreen for what --force replaced


def restore_backup(
    root: Path, archive: Path, *, force: bool = False, step: Callable[[str], None] = lambda text: None
) -> list[str]:
    """Restore `archive` into the checkout at `root`; returns what was done and what is left to do, a sentence each.

    force: replace files that differ, and take a backup of another project. Raises EvergreenError, and then nothing was
    placed, unless the disk is full.
    """
    root = main_checkout(root)
    state, params = state_dir(root), load_params(root / "params.yaml")
    step("reading the archive")
    manifest = read_manifest(archive)
    _check(root, params, archive, manifest, force)
    make_folder(state)
    with tempfile.TemporaryDirectory(prefix=".restore.", suffix=".tmp", dir=state) as scratch:
        staged = Path(scratch)
        step("comparing digests")
        unpack(archive, manifest, staged)
        made = f"{manifest.at} by {manifest.by} on {manifest.host}"
        said = [f"{len(manifest.files)} files of the backup made on {made}: every digest is right"]
        said += _git(root, staged / "git.bundle", manifest)
        step("taking out what was erased")
        gone = _without_erased(root, staged)
        said += [f"{gone} file(s) held images that were erased since: they were taken out"] if gone else []
        needed = _ledger_of(staged, manifest)
        places, skipped = _places(root, params, staged)
        said += skipped
        store_placed = any(file.is_relative_to(staged / "store") for file in places.values())
        _unite(places, staged)
        _refuse_differing(places, manifest, force)
        step("placing files")
        said.append(_place(state, places))
        said += _objects(root, staged / "objects")
        if store_placed:
            releases = open_store(params.store, root)
            claim(releases.owned.files, owner_of(root), needed)
            redact(releases, _erased_ids(root, releases))
    return [*said, *(f"not in the backup: {text}" for text in manifest.left_out), *_next(root)]


def _check(root: Path, params: Params, archive: Path, manifest: Manifest, force: bool) -> None:
    if manifest.project != params.bundle.name and not force:
        raise EvergreenError(
            f"{archive} is a backup of {manifest.project!r} ({manifest.path} on {manifest.host}), and this project is "
            f"{params.bundle.name!r} (bundle.name in params.yaml): go to a clone of that one, or use --force"
        )
    if alive := list(alive_runs(root)):
        raise EvergreenError(f"run {alive[0]} is alive: wait until it ends, or stop it")
    if (state_dir(root) / "services.lock").is_file():
        with try_locked(state_dir(root) / "services.lock") as mine:
            if not mine:
                raise EvergreenError("the services of this project run: `evergreen down` stops them")


# git


def _git(root: Path, bundle: Path, manifest: Manifest) -> list[str]:
    """Fetch what the clone lacks; move its branch forward if that loses nothing."""
    if not bundle.is_file():
        return []
    git(root, "fetch", "--quiet", "--no-tags", str(bundle), f"+refs/heads/*:{HELD}/*")
    git(root, "fetch", "--quiet", str(bundle), "refs/tags/*:refs/tags/*", "refs/evergreen/held/*:refs/evergreen/held/*")
    said = []
    theirs = git(root, "for-each-ref", "--format=%(refname) %(objectname)", HELD)
    for ref, sha in (line.split() for line in theirs.splitlines()):
        name = ref.removeprefix(f"{HELD}/")
        if name == "releases" and _moves(root, "refs/heads/releases", sha):
            git(root, "update-ref", "refs/heads/releases", sha)
    branch, head = git(root, "rev-parse", "--abbrev-ref", "HEAD"), git(root, "rev-parse", "HEAD")
    ahead = _moves(root, "HEAD", manifest.head)
    if head == manifest.head:
        said.append(f"{branch} is at the commit of the backup")
    elif ahead and not git(root, "status", "--porcelain", "--untracked-files=no"):
        git(root, "merge", "--quiet", "--ff-only", manifest.head)
        said.append(f"{branch} went forward to {manifest.head[:12]}, the commit of the backup")
    else:
        why = "it has commits of its own" if not ahead else "files differ from HEAD"
        said.append(f"{branch} stays at {head[:12]}, because {why}; the backup's branch is {HELD}/{manifest.branch}")
    for line in theirs.splitlines():
        ref, sha = line.split()
        if git(root, "merge-base", sha, "HEAD") == sha or ref == f"{HELD}/releases":
            git(root, "update-ref", "-d", ref)
    return said


def _moves(root: Path, ref: str, sha: str) -> bool:
    """Is `sha` after `ref`, so that moving there loses nothing?"""
    ours = git(root, "for-each-ref", "--format=%(objectname)", ref) if ref != "HEAD" else git(root, "rev-parse", "HEAD")
    return not ours or (ours != sha and git(root, "merge-base", ours, sha) == ours)


# erasures


def _without_erased(root: Path, staged: Path) -> int:
    """Take every trace of erased images out of the unpacked files; how many changed."""
    ledger, ids = erasures.read_ledger(root), set()
    if not ledger["images"]:
        return 0
    files = [
        file for part in ("state", "log", "store") for file in sorted((staged / part).rglob("*")) if file.is_file()
    ]
    for file in files:
        ids |= {name for name in _ids_in(file) if erasures.why_erased(ledger, name)}
    if not ids:
        return 0
    known, changed = Known(), 0
    for file in files:
        with open(file, "rb") as stream:
            if stream.read(4) == b"PAR1":
                learn(known, file, ids)
    search = Search(known.traces(ids))
    if (staged / "log").is_dir():  # its tables are named by their content
        tables = store_items(LocalStore(staged / "log"), lambda key: key.endswith(".parquet"), named=True)
        changed += clean_items(tables, search)
    for file in files:
        if file.is_relative_to(staged / "store/objects") or not file.is_file():
            continue  # objects are those of bundles: `redact` replaces them
        found = look(file.read_bytes(), file.name, search)
        if found.hits:
            changed += 1
            file.unlink()
            if found.rest is not None:
                file.write_bytes(found.rest)
    return changed


def _ids_in(file: Path) -> set[str]:
    content = file.read_bytes()
    if content[:4] != b"PAR1":
        return {match.decode() for match in TOKEN.findall(content)}
    try:
        parquet = pq.ParquetFile(pa.BufferReader(content))
        return set(parquet.read(columns=["id"])["id"].to_pylist()) if "id" in parquet.schema_arrow.names else set()
    except (OSError, pa.ArrowException):
        return set()


def _erased_ids(root: Path, releases: Releases) -> set[str]:
    """Ids of erased images that a bundle of the restored release store shows."""
    ledger = erasures.read_ledger(root)
    if not ledger["images"]:
        return set()
    shown = {name for _, _, table in references(releases.store) for name in table["id"].to_pylist()}
    return {name for name in shown if erasures.why_erased(ledger, name)}


# files


def _places(root: Path, params: Params, staged: Path) -> tuple[dict[Path, Path], list[str]]:
    """(where each unpacked file belongs -> the file, what is not restored and why)."""
    state, said = state_dir(root), []
    found = {state / file.relative_to(staged / "state"): file for file in _files(staged / "state")}
    for part, url, what in (
        ("store", params.store.url, "the release store"),
        ("log", params.capture.url, "the production log"),
    ):
        if not (staged / part).is_dir():
            continue
        folder = None if url.startswith("s3://") else open_blobs(url, root, store=params.store)
        linked = (state / "releases").is_symlink() if part == "store" else False
        if not isinstance(folder, LocalStore) or linked:
            said.append(f"{what} is in {url}, which others share: the backup's was not restored")
            continue
        found |= {folder.root / file.relative_to(staged / part): file for file in _files(staged / part)}
    return found, said


def _ledger_of(staged: Path, manifest: Manifest) -> set[str]:
    """What the backed-up checkout needed of its release store. All ledgers are taken out: only we use this copy."""
    if not (staged / "store/ledgers").is_dir():
        return set()
    found = read_ledgers(StoreFiles(LocalStore(staged / "store"), "the backup"))
    shutil.rmtree(staged / "store/ledgers")
    return found[manifest.checkout].names if manifest.checkout in found else set()


def _unite(places: dict[Path, Path], staged: Path) -> None:
    """Tombstones of both sides hold."""
    for target, file in places.items():
        if file == staged / "store" / TOMBSTONES and target.is_file():
            united = read_json(file) | read_json(target)
            file.unlink()
            write_json(file, united)


def _refuse_differing(places: dict[Path, Path], manifest: Manifest, force: bool) -> None:
    differ = [
        target for target, file in places.items() if target.is_file() and sha256_file(target) != sha256_file(file)
    ]
    differ = [target for target in differ if target.name != TOMBSTONES]
    if differ and not force:
        shown = ", ".join(str(target) for target in differ[:3]) + (", ..." if len(differ) > 3 else "")
        raise EvergreenError(
            f"{len(differ)} file(s) here differ from the backup of {manifest.at} ({shown}): this checkout has state of "
            "its own. Restore into a fresh clone, or use --force, which sets them aside"
        )


def _place(state: Path, places: dict[Path, Path]) -> str:
    """Put every file where it belongs, the pointer last, so that it names only what is there."""
    aside = state / ASIDE / f"{datetime.now(UTC):%Y%m%dT%H%M%S%fZ}"
    placed, same, replaced = 0, 0, 0
    for target, file in sorted(places.items(), key=lambda one: (one[0].name == LIVE, str(one[0]))):
        if target.is_file():
            if sha256_file(target) == sha256_file(file):
                same += 1
                continue
            kept = aside / os.path.relpath(target, state).replace("..", "_")
            make_folder(kept.parent)
            shutil.copy2(target, kept)
            replaced += 1
        make_folder(target.parent)
        fsync_file(file)
        os.replace(file, target)
        placed += 1
        failpoint("restore.placed")
    said = f"{placed} file(s) placed, {same} were here already"
    return said + (f"; {replaced} that differed are in {aside}" if replaced else "")


def _objects(root: Path, folder: Path) -> list[str]:
    """Put objects of DVC into the cache, except those that were erased."""
    files = list(_files(folder))
    if not files:
        return []
    erased, added, repo = erasures.erased_objects(root), 0, open_repo(root)
    try:
        cache = object_databases(repo, None)[0]
        for file in files:
            if file.name in erased:
                continue
            if hash_local_file(file) != file.name.removesuffix(".dir"):
                raise EvergreenError(f"object {file.name} of the backup is not what its name says: use another backup")
            add_local_file(cache, str(file), file.name)
            added += 1
    finally:
        repo.close()
    return [f"{added} objects of the data are in DVC's cache"]


def _next(root: Path) -> list[str]:
    return ["next: `evergreen connect` (finds or checks data and releases), `evergreen status`, `evergreen up`"]


def _files(folder: Path) -> Iterator[Path]:
    if folder.is_dir():  # LocalStore keeps unfinished files in .tmp
        yield from (f for f in sorted(folder.rglob("*")) if f.is_file() and ".tmp" not in f.parts)
