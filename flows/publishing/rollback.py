"""What was live when, and the way back: `evergreen releases`, `evergreen rollback`.

A rollback is a new pointer forward to an old version, so nothing is ever lost from the history. What it was rolled
back from is *withdrawn*: a retrain that ends with that very model again, or starts from its very inputs, is held for a
person instead of promoting it behind everybody's back.
"""

from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from pathlib import Path

from pydantic import AwareDatetime

from flows.publishing import registry
from flows.publishing.publish import assign_stages
from flows.repo.git import git
from flows.repo.objects import Objects, open_objects, outs_at
from tasks.common.checks import Frozen
from tasks.common.errors import EvergreenError
from tasks.common.failpoints import failpoint
from tasks.common.files import atomic_dir, fsync_dir
from tasks.common.params import Params, load_params
from tasks.common.paths import main_checkout
from tasks.dataset.shards import BatchManifest
from tasks.releases.store import Pointer, PointerMoved, Releases, open_store, successor


class Period(Frozen):
    """One version's time as the live one; `until` None: it is live now."""

    seq: int
    version: str
    since: AwareDatetime
    until: AwareDatetime | None
    by: str
    why: str
    run_id: str
    bundle: str
    git_rev: str
    again: bool  # the version had been live before: a rollback, or a way forward after one


class Withdrawal(Frozen):
    """`release` went live once and was rolled back by `rollback`."""

    release: Pointer
    rollback: Pointer


def periods(history: Sequence[Pointer]) -> list[Period]:
    """What was live when, oldest first."""
    found, seen = [], set()
    for place, pointer in enumerate(history):
        end = history[place + 1].at if place + 1 < len(history) else None
        about = pointer.model_dump(include={"seq", "version", "by", "why", "run_id", "bundle", "git_rev"})
        found.append(Period(**about, since=pointer.at, until=end, again=pointer.version in seen))
        seen.add(pointer.version)
    return found


def withdrawn(history: Sequence[Pointer]) -> dict[str, Withdrawal]:
    """Bundle digest -> why it must not go live by itself: a rollback went behind its first release.

    A version that goes live again (a person put it back) is no longer withdrawn.
    """
    first: dict[str, Pointer] = {}
    found: dict[str, Withdrawal] = {}
    for pointer in history:
        known = first.setdefault(pointer.bundle, pointer)
        if known is not pointer:
            found.pop(pointer.bundle, None)
            newer = (release for release in first.values() if release.seq > known.seq)
            found = {release.bundle: Withdrawal(release=release, rollback=pointer) for release in newer} | found
    return found


def withdrawal_of(releases: Releases, bundle: str, key: str | None = None) -> Withdrawal | None:
    """The withdrawal that speaks against publishing `bundle`, made by a run over the inputs `key`; None: nothing does.

    The same inputs may train to a slightly different model elsewhere: the run record of the withdrawn release tells.
    """
    found = withdrawn(releases.history())
    if bundle in found or key is None:
        return found.get(bundle)
    runs = ((entry, releases.run(entry.release.run_id) or {}) for entry in found.values())
    return next((entry for entry, run in runs if run.get("key") == key), None)


def withdrawn_sentence(entry: Withdrawal) -> str:
    """What a run says that came out as a withdrawn version again."""
    release, rollback = entry.release, entry.rollback
    return (
        f"this is {release.version} again, which {rollback.by} rolled back to {rollback.version} on "
        f"{rollback.at:%Y-%m-%d %H:%M} UTC ({rollback.why}): held. `evergreen rollback {release.version}` puts it "
        "back; `evergreen tombstone BATCH` keeps a batch out of the next run"
    )


def find(history: Sequence[Pointer], version: str | None) -> Pointer:
    """The newest pointer to `version`; None: to the version that was live before the live one first was.

    So one rollback after the other goes further back, and never forth. Raises EvergreenError.
    """
    if not history:
        raise EvergreenError("nothing has been released yet: `evergreen retrain` makes the first version")
    live = history[-1]
    if version is None:
        first = next(place for place, pointer in enumerate(history) if pointer.version == live.version)
        if first == 0:
            raise EvergreenError(f"{live.version} is the first version: there is none before it to roll back to")
        version = history[first - 1].version
    found = [pointer for pointer in history if pointer.version == version]
    if not found:
        known = ", ".join(dict.fromkeys(pointer.version for pointer in history))
        raise EvergreenError(f"no version {version!r} was ever live; there are: {known}")
    return found[-1]


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
    """Make `version` (None: the one before, see `find`) live again; returns the new pointer.

    The target's bundle and data are hashed first, whatever state the live version is in. tombstone: True for all
    batches the target was not trained on and the live version was, or their ids. restore_to: a new or empty folder for
    the target's bundle and data. model_only: though its data cannot be restored. Raises EvergreenError, then nothing
    has become live; the tombstones, which come first, may have been set.
    """
    main = main_checkout(root)
    params, releases = open_project(root)
    history = releases.history()
    target = find(history, version)
    live = history[-1]
    if target.version == live.version and restore_to is None:
        raise EvergreenError(f"{live.version} is live already, since {live.at:%Y-%m-%d %H:%M} UTC")
    if restore_to is not None:
        _refuse_full(restore_to)
    if not model_only and (retired := releases.retired().get(target.version)):
        raise EvergreenError(
            f"{target.version} was retired by {retired['by']} on {retired['at']} ({retired['why']}): its bytes may be "
            "gone. --model-only puts the model alone back, if its bundle is still there."
        )
    releases.audit_bundle(target.bundle)
    if not (model_only and restore_to is None and not tombstone):
        with open_objects(main) as objects:
            _need_commit(main, target)
            if not model_only:
                audit_data(main, objects, target)
            if tombstone:
                between = [batch.batch for batch in newer_batches(main, objects, target, live)]
                set_aside = between if tombstone is True else _known(tombstone, main, objects, live)
                for batch in set_aside:
                    releases.tombstone(batch, why=f"rolled back to {target.version}: {why}", by=by)
                failpoint("rollback.tombstoned")
    failpoint("rollback.verified")
    if target.version != live.version:
        live = _swap(main, releases, params.bundle.name, live, target, by, why)
    if restore_to is not None:
        restore(root, live, restore_to)
    return live


def _swap(main: Path, releases: Releases, name: str, live: Pointer, target: Pointer, by: str, why: str) -> Pointer:
    about = {"version": target.version, "git_rev": target.git_rev, "bundle": target.bundle}
    run_id = f"{datetime.now(UTC):%Y%m%dT%H%M%S%f}-rollback"
    try:
        pointer = releases.promote(successor(live, run_id=run_id, by=by, why=f"rollback: {why}", **about))
    except PointerMoved as moved:
        raise EvergreenError(
            f"{moved.current.version if moved.current else 'nothing'} went live while this rollback was prepared: look "
            "at `evergreen releases` and start it again if you still want it"
        ) from None
    failpoint("rollback.promoted")
    assign_stages(main, releases, name)
    return pointer


def open_project(root: Path) -> tuple[Params, Releases]:
    """(params.yaml, release store) of the project at `root`."""
    params = load_params(root / "params.yaml")
    return params, open_store(params.store, root)


def audit_data(root: Path, objects: Objects, pointer: Pointer) -> None:
    """Hash every object of the data that `pointer` names. Raises EvergreenError naming all that is whole nowhere."""
    oid = _data(root, pointer)
    problems = objects.lost([oid]) or objects.lost(objects.files(oid).values())
    if problems:
        listed = "\n  ".join(problems[:20])
        raise EvergreenError(
            f"{len(problems)} object(s) of the data of {pointer.version} are lost:\n  {listed}\nNothing was made live. "
            "Restore them from a backup of the DVC remote, or roll back the model alone with --model-only."
        )


def newer_batches(root: Path, objects: Objects, target: Pointer, live: Pointer) -> list[BatchManifest]:
    """Batches that `live` was made with and `target` was not, in ingest order."""
    known = {batch.batch for batch in batches_at(root, objects, target.git_rev)}
    return [batch for batch in batches_at(root, objects, live.git_rev) if batch.batch not in known]


def left_in(root: Path, live: Pointer, before: Pointer) -> list[BatchManifest]:
    """After a rollback from `before` to `live`: the batches that came between and are not tombstoned."""
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


def restore(root: Path, pointer: Pointer, dest: Path) -> Path:
    """Put the version of `pointer` into the new or empty folder `dest`, every file hashed, whole or not at all.

    dest/bundle/ is the model, dest/data/ what it was made from, beside them the recorded files of its commit.
    Raises EvergreenError.
    """
    main = main_checkout(root)
    _, releases = open_project(root)
    _refuse_full(dest)
    _need_commit(main, pointer)
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


def _refuse_full(dest: Path) -> None:
    if dest.exists() and (not dest.is_dir() or any(dest.iterdir())):
        raise EvergreenError(f"{dest} is there and not empty: name a new folder to restore into")


def _need_commit(root: Path, pointer: Pointer) -> None:
    if not registry.has_commit(root, pointer.git_rev):
        raise EvergreenError(
            f"this repository lacks commit {pointer.git_rev[:12]} of {pointer.version}, which says what its data is: "
            "fetch the branch releases and the tags from where it was published (`git fetch origin releases --tags`)"
        )


def _data(root: Path, pointer: Pointer) -> str:
    if oid := outs_at(root, pointer.git_rev).get("data"):
        return oid
    raise EvergreenError(f"commit {pointer.git_rev[:12]} of {pointer.version} has no data.dvc: it records no data")


def _known(batches: Collection[str], root: Path, objects: Objects, live: Pointer) -> Collection[str]:
    """`batches`, if the live version's data or HEAD's has them all. Raises EvergreenError otherwise."""
    known = {batch.batch for rev in (live.git_rev, "HEAD") for batch in batches_at(root, objects, rev)}
    if unknown := sorted(set(batches) - known):
        raise EvergreenError(f"no batch {', '.join(unknown)}; there are: {', '.join(sorted(known)) or 'none'}")
    return batches
