"""Steps of an erasure beyond lists of files: ledger, commit, bundles, caches, objects of DVC.

Each step can be repeated.
"""

import json
import shutil
import tempfile
from collections.abc import Collection
from contextlib import closing, suppress
from pathlib import Path

import pyarrow.parquet as pq

from flows.erasure.occurrences import MISTAKES, ErasurePlan, references
from flows.erasure.project_places import caches, clean_places, runs_with_traces
from flows.repo.git import git, identity_options
from flows.repo.ledger import BesideObjects
from flows.repo.odb import forget_index
from flows.repo.pipeline import open_repo, restore_data
from flows.repo.remotes import all_object_databases
from flows.versions.sharing import sharing
from tasks.common.failpoints import failpoint
from tasks.common.files import atomic_path, locked, sha256_bytes, write_json
from tasks.common.owner import owner_of
from tasks.common.paths import state_dir
from tasks.erasure.documents import clean_json
from tasks.erasure.traces import Search
from tasks.ingest import erase, erasures
from tasks.releases import bundle_store
from tasks.releases.bundle import write_manifest
from tasks.releases.store import Releases
from tasks.storage.ledgers import collecting

GC_SECONDS = 3600.0  # an `evergreen gc` of this checkout may delete much


def restore(root: Path) -> None:
    repo = open_repo(root)
    try:
        restore_data(repo)
    finally:
        repo.close()


def write_ledger(root: Path, about: dict, plan: ErasurePlan, objects: set[str]) -> None:
    ledger, name = erasures.read_ledger(root), about["at"]
    entry = {key: about[key] for key in ("at", "by", "why")} | {"images": len(plan.ids), "versions": plan.versions}
    ledger["erasures"][name] = entry | {"models_trained_with_them": plan.versions, "what": plan.sentence()}
    ledger["images"] |= {erasures.hashed_id(image): name for image in plan.ids}
    ledger["objects"] |= dict.fromkeys(sorted(objects), name)
    write_json(root / erasures.FILE, ledger, tracked=True)


def clean_notes(data: Path, search: Search) -> None:
    """Blank what definitions of classes, changes of classes and manifests say of the images."""
    for file in sorted(data.rglob("*.json")):
        found = clean_json(file.read_bytes(), search)
        if found.hits:
            with atomic_path(file) as temporary:
                temporary.write_bytes(found.rest)


def commit(root: Path, images: int) -> None:
    names = [name for name in ("data.dvc", erasures.FILE) if (root / name).is_file()]
    git(root, "add", "--force", *names)
    if git(root, "status", "--porcelain", "--", *names):
        message = f"Erase {images} image(s) on request"
        git(root, *identity_options(root), "commit", "--quiet", "--only", *names, "-m", message)


def redact(releases: Releases, ids: Collection[str]) -> None:
    """Replace every bundle that shows one of `ids` by one without them, then delete what shows them."""
    store = releases.store
    old: list[tuple[str, str]] = []
    for digest, sha256, table in list(references(store)):
        if not ids & set(table["id"].to_pylist()):
            continue
        with tempfile.TemporaryDirectory(prefix="evergreen-") as scratch:
            folder = bundle_store.get(store, digest, Path(scratch) / "bundle")
            if (
                sha256_bytes((folder / bundle_store.MANIFEST).read_bytes()) == digest
            ):  # otherwise it is replaced already
                table = erase.drop_ids(pq.read_table(folder / "reference.parquet"), ids)
                with atomic_path(folder / "reference.parquet") as temporary:
                    pq.write_table(table, temporary, compression="zstd", row_group_size=256)
                (folder / bundle_store.MANIFEST).unlink()
                write_manifest(folder)
                redacted = releases.put_bundle(folder)
                failpoint("forget.redacting")
                store.create(f"redacted/{digest}.json", (json.dumps({"bundle": redacted}) + "\n").encode())
        old.append((digest, sha256))
    for _, sha256 in old:  # after the loop: bundles may share a reference
        store.remove(f"objects/{sha256}")
        failpoint("forget.reference")
    for key in list(store.list("bundles/")):
        if store.read(f"redacted/{key.removeprefix('bundles/')}") is not None:
            store.remove(key)


def clean_state(root: Path, search: Search, names: Collection[str]) -> None:
    """Delete caches, workspaces of ended runs and artifacts that are about one of the images."""
    state, stems = state_dir(root), {Path(name).stem for name in names}
    for file in state.glob("cache/*/*/*"):
        if file.name.partition(".")[0] in stems:
            file.unlink(missing_ok=True)
    for file in list(state.glob("cache/bundles/*/*.parquet")):
        if erase.ids_with_pixels(file, search.ids):  # an unpacked bundle goes as a folder: it would be incomplete
            shutil.rmtree(file.parent)
    for run in runs_with_traces(root, search):
        shutil.rmtree(run)
    git(root, "worktree", "prune")
    if (root / MISTAKES[0]).is_file() and any(image in (root / MISTAKES[0]).read_text() for image in search.ids):
        (root / MISTAKES[1]).unlink(missing_ok=True)
    clean_places(caches(root), search)


def remove_objects(root: Path, objects: Collection[str], needed: Collection[str], also_shared: bool) -> None:
    """Delete `objects` where no other project uses them, or with `also_shared` everywhere, and give up their names."""
    repo, me = open_repo(root), owner_of(root)
    with closing(repo), locked(state_dir(root) / "gc.lock", GC_SECONDS, "the DVC cache and remote, by `evergreen gc`,"):
        for odb in all_object_databases(repo):
            with collecting(BesideObjects(odb), me) as erasing:
                place = sharing(root, odb, needed)
                for oid in sorted(objects):
                    if also_shared or not place.users(oid):
                        erasing.keep_alive()
                        with suppress(FileNotFoundError):
                            odb.delete(oid)
                            failpoint("forget.object")
                if me.id in erasing.ledgers:
                    erasing.replace(erasing.ledgers[me.id].names - set(objects))
            forget_index(odb)
