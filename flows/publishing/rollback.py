"""`evergreen rollback`: make an older version live again, or restore it into a folder.

A rollback is a new pointer, forward in history, to that version: the history loses nothing. The data of versions is
read from DVC's objects and never from a checkout.
"""

from collections.abc import Collection
from datetime import UTC, datetime
from pathlib import Path

from flows.publishing import registry
from flows.publishing.history import find, open_project
from flows.publishing.publish import assign_stages
from flows.repo.copies import record_copies
from flows.repo.git import git
from flows.repo.objects import Objects, open_objects, outs_at
from tasks.common.errors import EvergreenError
from tasks.common.failpoints import failpoint
from tasks.common.files import atomic_dir, fsync_dir
from tasks.common.paths import main_checkout
from tasks.dataset.annotation_files import FOLDER as ANNOTATIONS
from tasks.dataset.annotation_files import AnnotationBatch
from tasks.dataset.shards import BatchManifest
from tasks.releases.pointer import Pointer, successor
from tasks.releases.store import PointerMoved, Releases


def rollback(
    root: Path,
    version: str | None = None,
    *,
    by: str,
    why: str,
    tombstone: bool | Collection[str] = False,
    restore_to: Path | None = None,
    model_only: bool = False,
) -> Pointer:
    """Make `version` live again and return the new pointer; None: the version before (`history.find`).

    The target's bundle and data are hashed first, also if the live version is damaged.

    tombstone: ids of batches, or True for all batches that the live version was trained on and the target was not.
    restore_to: a new or empty folder for the target's bundle and data. model_only: proceed although the target's data
    cannot be restored. Raises EvergreenError; nothing has gone live then, but tombstones, which are set first, may be.
    """
    main = main_checkout(root)
    params, releases = open_project(root)
    history = releases.history()
    target = find(history, version)
    live = history[-1]
    if target.version == live.version and restore_to is None:
        raise EvergreenError(f"{live.version} is live already, since {live.at:%Y-%m-%d %H:%M} UTC")
    if restore_to is not None:
        _check_empty(restore_to)
    if not model_only and (retired := releases.retired().get(target.version)):
        raise EvergreenError(
            f"{target.version} was retired by {retired['by']} on {retired['at']} ({retired['why']}): its files may "
            "have been deleted. --model-only puts the model alone back if its bundle still exists."
        )
    releases.audit_bundle(target.bundle)
    if not (model_only and restore_to is None and not tombstone):
        with open_objects(main) as objects:
            _check_commit(main, target)
            if not model_only:
                audit_data(main, objects, target)
            if tombstone:
                between = [batch.batch for batch in newer_batches(main, objects, target, live)]
                set_aside = between if tombstone is True else _check_batches(tombstone, main, objects, live)
                for batch in set_aside:
                    releases.tombstone(batch, why=f"rolled back to {target.version}: {why}", by=by)
                failpoint("rollback.tombstoned")
    failpoint("rollback.verified")
    if target.version != live.version:
        live = _swap(main, releases, params.bundle.name, live, target, by, why)
    if restore_to is not None:
        record_copies(main, "version", [restore_to])
        restore(root, live, restore_to)
    return live


def _swap(main: Path, releases: Releases, name: str, live: Pointer, target: Pointer, by: str, why: str) -> Pointer:
    about = {"version": target.version, "git_rev": target.git_rev, "bundle": target.bundle}
    run_id = f"{datetime.now(UTC):%Y%m%dT%H%M%S%f}-rollback"
    try:
        pointer = releases.promote(successor(live, run_id=run_id, by=by, why=f"rollback: {why}", **about))
    except PointerMoved as moved:
        raise EvergreenError(
            f"{moved.current.version if moved.current else 'nothing'} went live while this rollback was prepared: see "
            "`evergreen releases`, and start the rollback again if you still want it"
        ) from None
    failpoint("rollback.promoted")
    assign_stages(main, releases, name)
    return pointer


def audit_data(root: Path, objects: Objects, pointer: Pointer) -> None:
    """Hash every object of the data of `pointer`. Raises EvergreenError naming each without an undamaged copy."""
    oid = _data(root, pointer)
    problems = objects.lost([oid]) or objects.lost(objects.files(oid).values())
    if problems:
        listed = "\n  ".join(problems[:20])
        raise EvergreenError(
            f"{len(problems)} object(s) of the data of {pointer.version} are lost:\n  {listed}\nNothing was made live. "
            "Restore them from a backup of the DVC remote, or roll back the model alone with --model-only."
        )


def newer_batches(root: Path, objects: Objects, target: Pointer, live: Pointer) -> list[BatchManifest]:
    """Batches that are in the data of `live` and not in that of `target`, in ingest order."""
    known = {batch.batch for batch in batches_at(root, objects, target.git_rev)}
    return [batch for batch in batches_at(root, objects, live.git_rev) if batch.batch not in known]


def remaining_batches(root: Path, live: Pointer, before: Pointer) -> list[BatchManifest]:
    """After a rollback from `before` to `live`: the batches that are newer than `live` and not tombstoned."""
    main = main_checkout(root)
    stones = open_project(root)[1].tombstones()
    with open_objects(main) as objects:
        return [batch for batch in newer_batches(main, objects, live, before) if batch.batch not in stones]


def batches_at(root: Path, objects: Objects, rev: str) -> list[BatchManifest]:
    """The batches in the data of commit `rev`, in ingest order."""
    oid = outs_at(root, rev).get("data")
    files = objects.files(oid) if oid else {}
    found = [
        BatchManifest.model_validate_json(objects.read(md5))
        for name, md5 in files.items()
        if name.startswith("batches/") and name.endswith(".json")
    ]
    return sorted(found, key=lambda batch: (batch.seq, batch.batch))


def label_batches_at(root: Path, objects: Objects, rev: str) -> list[AnnotationBatch]:
    """The batches of people's labels in the data of commit `rev`, in the order in which they were taken."""
    oid = outs_at(root, rev).get("data")
    files = objects.files(oid) if oid else {}
    manifests = [md5 for name, md5 in files.items() if name.startswith(f"{ANNOTATIONS}/batches/")]
    found = [AnnotationBatch.model_validate_json(objects.read(md5)) for md5 in manifests]
    return sorted(found, key=lambda batch: (batch.seq, batch.batch))


def restore(root: Path, pointer: Pointer, dest: Path) -> Path:
    """Put the version of `pointer` into the new or empty folder `dest`, completely or not at all; hashes every file.

    dest/bundle/ is the model, dest/data/ what it was made from; the recorded files of its commit are next to them.
    Raises EvergreenError.
    """
    main = main_checkout(root)
    _, releases = open_project(root)
    _check_empty(dest)
    _check_commit(main, pointer)
    with open_objects(main) as objects, atomic_dir(dest) as folder:
        releases.get_bundle(pointer.bundle, folder / "bundle")
        files = objects.files(_data(main, pointer))
        for name, oid in sorted(files.items()):
            objects.copy(oid, folder / "data" / name)
        names = git(main, "ls-tree", "-r", "-z", "--name-only", pointer.git_rev, "--", *registry.RECORDED)
        index = {"GIT_INDEX_FILE": str(folder / ".index")}
        git(main, "read-tree", pointer.git_rev, env=index)
        git(main, "checkout-index", f"--prefix={folder}/", "--", *filter(None, names.split("\0")), env=index)
        (folder / ".index").unlink()
        failpoint("rollback.restored")
        fsync_dir(folder)
    return dest


def _check_empty(dest: Path) -> None:
    if dest.exists() and (not dest.is_dir() or any(dest.iterdir())):
        raise EvergreenError(f"{dest} is not empty: name a new or empty folder to restore into")


def _check_commit(root: Path, pointer: Pointer) -> None:
    if not registry.has_commit(root, pointer.git_rev):
        raise EvergreenError(
            f"this repository lacks commit {pointer.git_rev[:12]} of {pointer.version}, which records its data: "
            "fetch the branch releases and the tags from where it was published (`git fetch origin releases --tags`)"
        )


def _data(root: Path, pointer: Pointer) -> str:
    if oid := outs_at(root, pointer.git_rev).get("data"):
        return oid
    raise EvergreenError(f"commit {pointer.git_rev[:12]} of {pointer.version} has no data.dvc: it records no data")


def _check_batches(batches: Collection[str], root: Path, objects: Objects, live: Pointer) -> Collection[str]:
    """Return `batches` if each is in the live version's data or in HEAD's; raises EvergreenError otherwise."""
    known = {batch.batch for rev in (live.git_rev, "HEAD") for batch in batches_at(root, objects, rev)}
    if unknown := sorted(set(batches) - known):
        raise EvergreenError(f"no batch {', '.join(unknown)}; there are: {', '.join(sorted(known)) or 'none'}")
    return batches
