"""`evergreen forget`: erase images of a person from every place that holds their bytes or pixels.

    data/                      rows leave their shards; data.dvc and the ledger are committed
    release store              bundles get a reference without their thumbnails (`redacted/` maps old to new)
    production log             rows leave their files
    DVC cache and remote       old shards, references and pictures of mistakes are deleted, unless others use them too
    .evergreen, artifacts/     caches of those shards, workspaces of ended runs, pages that name the image

Versions whose data held the image can then be restored only without those shards. Their models stay, and the ledger
(tasks.ingest.erasures) says which were trained with it. The ledger is written before anything is deleted and lists
everything that will be missing, so `evergreen verify` can tell erased from lost. A journal in .evergreen/forget records
the erasure in progress: if it is killed, the next call completes it. From then on, ingest refuses exactly the same
bytes. A re-encoded copy has another id and is not recognised.
"""

import getpass
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Collection
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from flows.labels.journal import forget_answers
from flows.repo.git import git, identity_options
from flows.repo.ledger import BesideObjects
from flows.repo.odb import forget_index
from flows.repo.pipeline import open_repo, record_data, restore_data
from flows.repo.remotes import all_object_databases
from flows.repo.workspace import alive_runs
from flows.versions.occurrences import (
    MISTAKES,
    ErasurePlan,
    ids_in,
    log_keys,
    log_store,
    matching_ids,
    needed_objects,
    plan_erasure,
    references,
)
from flows.versions.sharing import sharing
from tasks.common.errors import EvergreenError
from tasks.common.failpoints import failpoint
from tasks.common.files import atomic_path, locked, read_json, sha256_bytes, write_json
from tasks.common.owner import owner_of
from tasks.common.params import Params, load_params
from tasks.common.paths import main_checkout, state_dir
from tasks.ingest import erase, erasures
from tasks.ingest.lock import data_lock
from tasks.releases import bundle_store
from tasks.releases.bundle import write_manifest
from tasks.releases.store import Releases, open_store
from tasks.storage.blobs import Store
from tasks.storage.ledgers import collecting

GC_SECONDS = 3600.0  # an `evergreen gc` of this checkout may delete much
NOT_PAGES = ("cache", "runs", "remote", "releases", "prefect", "production", "forget", "ingest")


def forget(
    root: Path,
    what: str,
    why: str,
    *,
    yes: bool = False,
    shared: bool = False,
    step: Callable[[str], None] = lambda text: None,
) -> ErasurePlan:
    """Find image `what` (an id: 64 hex digits; a key or path), or all of source or group `what`; with `yes` erase them.

    shared: delete objects of DVC also where another project uses them; otherwise these stay, and the plan names them.
    An erasure that was killed is completed first, with or without `yes`. Raises EvergreenError if nothing is found, or
    if a run is alive: it might still write what is being erased.
    """
    root = main_checkout(root)
    params = load_params(root / "params.yaml")
    if alive := list(alive_runs(root)):
        raise EvergreenError(f"run {alive[0]} is alive and may hold these images: wait until it ends, or stop it")
    releases = open_store(params.store, root)
    completed = ErasurePlan(ids=[])
    for journal in sorted((state_dir(root) / "forget").glob("*.json")):
        step("completing an erasure that was interrupted")
        about = read_json(journal)
        _erase(root, params, releases, about, journal, step)
        completed = ErasurePlan.model_validate(about["plan"])
    step(f"looking for {what}")
    plan = plan_erasure(root, params, releases, matching_ids(root, params, releases, what), step)
    if not plan.ids and completed.ids:
        return completed
    if not plan.ids:
        known = erasures.why_erased(erasures.read_ledger(root), what)
        raise EvergreenError(
            known or f"no image with id, key, path, source or group {what!r} is in the data, the versions or the log"
        )
    if yes:
        at = datetime.now(UTC).isoformat(timespec="microseconds")
        about = {"plan": plan.model_dump(), "at": at, "by": getpass.getuser(), "why": why, "shared": shared}
        journal = state_dir(root) / "forget" / f"{re.sub('[^0-9]', '', at)}.json"
        write_json(journal, about)
        failpoint("forget.journal")
        _erase(root, params, releases, about, journal, step)
    return plan


# the erasure: each step can be repeated


def _erase(root: Path, params: Params, releases: Releases, about: dict, journal: Path, step) -> None:
    noted = ErasurePlan.model_validate(about["plan"])
    ids, needed = set(noted.ids), needed_objects(root, params, releases)
    plan = plan_erasure(root, params, releases, ids, step)  # a killed call may have deleted some of it already
    objects, names = {*noted.objects, *plan.objects}, {*noted.shards, *plan.shards}
    with data_lock(root):  # keeps an ingest from starting
        if not (root / "data/dataset.json").is_file() and (root / "data.dvc").is_file():
            _restore(root)
        step("writing the ledger")
        _write_ledger(root, about, noted, objects)
        failpoint("forget.ledger")
        if (root / "data/dataset.json").is_file():
            step("rewriting data/")
            erase.erase_ids(root / "data", ids)
            failpoint("forget.rewritten")
            record_data(root)
        _commit(root, len(ids))
        failpoint("forget.committed")
    step("release store")
    _redact(releases, ids)
    failpoint("forget.redacted")
    step("production log")
    _clean_log(log_store(root, params), ids)
    failpoint("forget.log")
    step("caches")
    _clean_state(root, ids, names)
    failpoint("forget.state")
    step("DVC cache and remote")
    _remove_objects(root, objects, needed, about.get("shared", False))
    failpoint("forget.objects")
    journal.unlink()


def _restore(root: Path) -> None:
    repo = open_repo(root)
    try:
        restore_data(repo)
    finally:
        repo.close()


def _write_ledger(root: Path, about: dict, plan: ErasurePlan, objects: set[str]) -> None:
    ledger, name = erasures.read_ledger(root), about["at"]
    entry = {key: about[key] for key in ("at", "by", "why")} | {"images": len(plan.ids), "versions": plan.versions}
    ledger["erasures"][name] = entry | {"models_trained_with_them": plan.versions, "what": plan.sentence()}
    ledger["images"] |= {erasures.hashed_id(image): name for image in plan.ids}
    ledger["objects"] |= dict.fromkeys(sorted(objects), name)
    write_json(root / erasures.FILE, ledger, tracked=True)


def _commit(root: Path, images: int) -> None:
    names = [name for name in ("data.dvc", erasures.FILE) if (root / name).is_file()]
    git(root, "add", "--force", *names)
    if git(root, "status", "--porcelain", "--", *names):
        message = f"Erase {images} image(s) on request"
        git(root, *identity_options(root), "commit", "--quiet", "--only", *names, "-m", message)


def _redact(releases: Releases, ids: Collection[str]) -> None:
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


def _clean_log(log: Store, ids: Collection[str]) -> None:
    for key in log_keys(log):
        if (found := log.read(key)) is None or not ids_in(found[0], ids):
            continue
        rest = erase.drop_ids(pq.read_table(pa.BufferReader(found[0])), ids)
        if len(rest) == 0:
            log.remove(key)
            continue
        buffer = pa.BufferOutputStream()
        pq.write_table(rest, buffer, compression="zstd")
        log.swap(key, buffer.getvalue().to_pybytes(), found[1])
        failpoint("forget.logged")


def _clean_state(root: Path, ids: Collection[str], names: Collection[str]) -> None:
    """Delete caches, workspaces of ended runs, artifacts, pages and waiting answers that are about one of `ids`."""
    forget_answers(root, ids)
    state, stems = state_dir(root), {Path(name).stem for name in names}
    for file in state.glob("cache/*/*/*"):
        if file.name.partition(".")[0] in stems:
            file.unlink(missing_ok=True)
    for file in list(state.glob("cache/**/*.parquet")):
        if erase.ids_with_pixels(file, ids):  # an unpacked bundle goes as a folder: it would be incomplete
            if file.is_relative_to(state / "cache/bundles"):
                shutil.rmtree(file.parent)
            else:
                file.unlink()
    for run in state.glob("runs/*"):
        files = [*run.glob("tree/data/*.parquet"), *run.glob("tree/artifacts/**/*.parquet")]
        if any(erase.ids_with_pixels(file, ids) for file in files):
            shutil.rmtree(run)
    git(root, "worktree", "prune")
    for file in list(root.glob("artifacts/**/*.parquet")):
        if erase.ids_with_pixels(file, ids):
            file.unlink()
    if (root / MISTAKES[0]).is_file() and any(image in (root / MISTAKES[0]).read_text() for image in ids):
        (root / MISTAKES[1]).unlink(missing_ok=True)
    for folder in state.iterdir():
        if folder.is_dir() and folder.name not in NOT_PAGES:
            for picture in folder.rglob("*"):  # written next to a CSV that asks people
                if picture.stem in ids and picture.is_file():
                    picture.unlink()
            for page in [*folder.rglob("*.html"), *folder.rglob("*.csv"), *folder.rglob("*.json")]:
                text = page.read_text(errors="replace")
                if any(image in text for image in ids):
                    page.unlink()


def _remove_objects(root: Path, objects: Collection[str], needed: Collection[str], also_shared: bool) -> None:
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


# the command


def forget_command(root: Path, what: str, why: str, yes: bool, shared: bool) -> None:
    """Print what an erasure would change, or has changed."""
    from rich.console import Console

    console = Console()
    with console.status("looking") as status:
        plan = forget(root, what, why, yes=yes, shared=shared, step=lambda text: status.update(text))
    console.print(f"{'erased' if yes else 'would erase'} {plan.sentence()}")
    for version in plan.versions:
        console.print(f"{version}: its data can no longer be restored completely; its model was made with the image(s)")
    if plan.branches:
        console.print(
            f"{plan.branches} other branch(es) hold them in their data, which cannot be restored completely either"
        )
    for line in [] if shared else sorted({line for users in plan.shared.values() for line in users}):
        count = sum(line in users for users in plan.shared.values())
        console.print(
            f"{count} object(s) that show them {'stay' if yes else 'would stay'} in {line} uses them too. Run "
            "`evergreen forget` there as well, or delete them for everyone with --shared.",
            soft_wrap=True,
            markup=False,
        )
    if not yes:
        console.print("nothing was changed; `--yes` erases, which cannot be undone")
