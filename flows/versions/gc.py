"""`evergreen gc`: remove what no version needs, and nothing else.

    roots   every retained version (tags, pointer history, held runs), HEAD, every branch and the user's own tags,
            the checkout as it is, the workspaces of runs
    looked  release store (bundles/, objects/), DVC cache, DVC remote, caches beneath .evergreen/cache
    kept    what a root names, and whatever is younger than the grace period: a publish may be under way

What can be told of a root only by reading it is read whole, or nothing is removed at all: a commit that is not here,
or a listing or manifest that is lost, stops the command. Tombstones do not unroot: a tombstoned batch is part of the
versions it was in. DVC's own gc is not used: it knows branches and tags, but neither held runs nor the history of
what was live, and it removes what a rollback needs.

Giving up old versions is another thing, done on request only (`keep`, `keep_days`): they are recorded as retired in
the release store first, so that everybody knows, and cease to be roots; their tags and pointers stay.
"""

import getpass
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

from flows.publishing import registry
from flows.repo.pipeline import open_repo
from flows.repo.remotes import forget_index, places
from flows.repo.workspace import alive_runs
from flows.versions.retained import Listings, Out, Version, branch_tips, outs_at, outs_of, retained
from tasks.common.checks import Frozen
from tasks.common.errors import EvergreenError
from tasks.common.failpoints import failpoint
from tasks.common.params import Params, load_params
from tasks.common.paths import main_checkout, state_dir
from tasks.releases import bundle_store
from tasks.releases.store import Releases, open_store

GRACE_HOURS = 24.0
PER_SHARD = ("inspect", "pixels", "features")  # caches with one file a shard, beneath a folder per code and params


class Kind(Frozen):
    """What was found in one place: how much no root needs, and how much stays (young: because of the grace period)."""

    name: str
    garbage: int = 0
    garbage_bytes: int = 0
    kept: int = 0
    kept_bytes: int = 0
    young: int = 0


class Collected(Frozen):
    kinds: list[Kind]
    retired: list[str]  # versions given up by this call
    removed: bool


class Roots(Frozen):
    """What must stay."""

    versions: list[Version]
    oids: frozenset[str]  # of DVC
    remotes: frozenset[str | None]  # names of DVC remotes that anything is in
    shards: frozenset[str]  # file names without their ending
    digests: frozenset[str]  # of bundles
    keys: frozenset[str]  # of the release store
    runs: frozenset[str]  # alive while the roots were read


def gc(
    root: Path,
    *,
    yes: bool = False,
    keep: int | None = None,
    keep_days: float | None = None,
    grace_hours: float = GRACE_HOURS,
    step: Callable[[str], None] = lambda text: None,
) -> Collected:
    """Find what no root needs, and with `yes` remove it. `keep`: retire all but the newest versions; `keep_days`:
    retire those last live (or, never live, registered) longer ago. The live version and the one before it stay.

    Raises EvergreenError, having removed nothing, when a root cannot be read whole or a run starts meanwhile.
    """
    root = main_checkout(root)
    params = load_params(root / "params.yaml")
    releases = open_store(params.store, root)
    giving_up = to_retire(root, releases, params.bundle.name, keep, keep_days)
    if yes:
        for version, why in giving_up.items():  # first of all: whoever looks later must know why it is gone
            releases.retire(version, why, getpass.getuser())
        failpoint("gc.retired")
    before = time.time() - grace_hours * 3600
    repo = open_repo(root)
    try:
        step("what the versions need")
        roots = read_roots(root, repo, releases, params, set(giving_up))
        kinds, garbage = [], []
        for name, found in _places(root, repo, releases, params, roots):
            step(name)
            kind, remove = _sort(name, found, before)
            kinds.append(kind)
            garbage += remove
        if yes:
            if started := set(alive_runs(root)) - roots.runs:
                raise EvergreenError(f"run {min(started)} started meanwhile: nothing was removed, try again")
            step("removing")
            for remove in garbage:
                remove()
                failpoint("gc.removed")
            _forget_indexes(repo, roots)
    finally:
        repo.close()
    return Collected(kinds=kinds, retired=list(giving_up), removed=yes)


# roots


def to_retire(root: Path, releases: Releases, name: str, keep: int | None, keep_days: float | None) -> dict[str, str]:
    """Version -> why, of those that the caller's rule gives up."""
    if keep is None and keep_days is None:
        return {}
    if keep is not None and keep_days is not None:
        raise EvergreenError("give either --keep or --keep-days: with both it would be unclear which versions stay")
    if (keep if keep is not None else keep_days) < 1:
        raise EvergreenError("--keep and --keep-days begin at 1: the live version is never given up")
    history = releases.history()
    live = history[-1] if history else None
    safe = {live.version, live.prev} if live else set()
    versions = [found.name for found in retained(root, releases, name) if found.name.startswith("v")]
    if keep is not None:
        return {found: f"older than the newest {keep}" for found in versions[:-keep] if found not in safe}
    tags = registry.versions(root, name)
    last = {found: datetime.fromtimestamp(tags[found].at, UTC) for found in versions if found in tags}
    for pointer, successor in pairwise(history):
        last[pointer.version] = successor.at  # when it ceased to be live
    limit = datetime.now(UTC) - timedelta(days=keep_days)
    return {
        found: f"not live for {keep_days:g} days" for found in versions if found not in safe and last[found] < limit
    }


def read_roots(root: Path, repo, releases: Releases, params: Params, without: set[str]) -> Roots:
    """Everything that must stay; `without`: versions that are given up.

    Raises EvergreenError where it cannot be told what a version needs.
    """
    runs = frozenset(alive_runs(root))
    versions = [found for found in retained(root, releases, params.bundle.name) if found.name not in without]
    for version in versions:
        if not registry.has_commit(root, version.rev):
            raise EvergreenError(
                f"nothing was removed: the commit {version.rev[:12]} of {version.name} is not in this repository, so "
                "nobody can tell what it needs. Fetch the branch releases and the tags from where it was published."
            )
    tips = branch_tips(root)
    outs = outs_at(repo, [*(version.rev for version in versions), *tips])
    listings = Listings(repo)
    needed: list[Out] = []
    for version in versions:
        for out in outs.get(version.rev, ()):
            if out.oid.endswith(".dir") and listings.files(out) is None:
                raise EvergreenError(
                    f"nothing was removed: {version.name} needs the files of {out.path}, and their listing {out.oid} "
                    "is lost or damaged. `evergreen verify` says what can be done."
                )
        needed += outs.get(version.rev, ())
    for tip in tips:
        needed += outs.get(tip, ())
    needed += outs_of(repo)
    for tree in _trees(root):
        run = open_repo(tree)
        try:
            needed += outs_of(run)
        finally:
            run.close()
    objects, _ = listings.objects(needed)
    digests, keys = _bundles(root, releases, versions)
    return Roots(
        versions=versions,
        oids=frozenset(found.oid for found in objects),
        remotes=frozenset({found.remote for found in objects} | {None}),
        shards=frozenset(Path(found.path).stem for found in objects if found.path.startswith("data/")),
        digests=digests,
        keys=keys,
        runs=runs,
    )


def _trees(root: Path) -> Iterator[Path]:
    """Workspaces of runs, finished or not."""
    for tree in sorted(state_dir(root).glob("runs/*/tree")):
        if (tree / ".dvc").is_dir():
            yield tree


def _bundles(root: Path, releases: Releases, versions: list[Version]) -> tuple[frozenset[str], frozenset[str]]:
    """Digests that must stay, and the keys of all their objects."""
    digests, keys = set(), set()
    for version in versions:
        if version.bundle is None:
            continue
        digest = bundle_store.resolve(releases.store, version.bundle)
        key = f"bundles/{digest}.json"
        if (manifest := releases.store.read(key)) is None:
            raise EvergreenError(
                f"nothing was removed: {version.name} needs {key}, which is not in the release store. `evergreen "
                "verify` says what can be done."
            )
        digests |= {digest, version.bundle}
        keys |= {key} | {f"objects/{sha256}" for sha256 in bundle_store.files(manifest[0], key).values()}
    for manifest in state_dir(root).glob("runs/*/tree/artifacts/bundle/MANIFEST.json"):  # perhaps being published now
        with suppress(FileNotFoundError):
            content = manifest.read_bytes()
            digest = bundle_store.sha256_bytes(content)
            digests.add(digest)
            keys |= {f"bundles/{digest}.json"}
            keys |= {f"objects/{sha256}" for sha256 in bundle_store.files(content, manifest).values()}
    return frozenset(digests), frozenset(keys)


# what there is: (name, bytes, time of the last change in seconds, needed, how to remove it)

Found = tuple[str, int, float, bool, Callable[[], object]]


def _places(
    root: Path, repo, releases: Releases, params: Params, roots: Roots
) -> Iterator[tuple[str, Iterator[Found]]]:
    yield "release store", _release_store(releases, roots)
    yield "DVC cache", _dvc(repo.cache.local, roots)
    for remote in sorted(roots.remotes, key=str):
        for odb in places(repo, remote)[1:]:
            yield f"DVC remote {remote or ''}".strip(), _dvc(odb, roots)
    for name in (*PER_SHARD, "training", "bundles"):
        yield f"{name} cache", _cache(root, name, params, roots)


def _release_store(releases: Releases, roots: Roots) -> Iterator[Found]:
    for prefix in ("bundles/", "objects/"):  # a manifest goes before its objects: where it is, the bundle is whole
        for key in releases.store.list(prefix):
            size, at = releases.store.about(key)
            yield key, size, at.timestamp(), key in roots.keys, lambda key=key: releases.store.remove(key)


def _dvc(odb, roots: Roots) -> Iterator[Found]:
    if not odb.fs.exists(odb.path):
        return
    for oid in sorted(odb._list_oids(), key=lambda oid: (not oid.endswith(".dir"), oid)):  # listings first
        path = odb.oid_to_path(oid)
        info = odb.fs.info(path)
        local = odb.fs.protocol == "local"  # a hard link into the cache changes ctime; the file's own time is older
        at = os.stat(path).st_ctime if local else info["LastModified"].timestamp()
        yield oid, info["size"], at, oid in roots.oids, lambda oid=oid: odb.delete(oid)


def _cache(root: Path, name: str, params: Params, roots: Roots) -> Iterator[Found]:
    """Everything there can be made again; kept is what the next run over a root would look for."""
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
                yield str(file), about.st_size, about.st_ctime, needed, lambda file=file: file.unlink(missing_ok=True)
        else:
            size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
            needed = name == "bundles" and path.name in roots.digests
            yield str(path), size, _newest(path), needed, lambda path=path: shutil.rmtree(path, ignore_errors=True)


def _newest(folder: Path) -> float:
    return max(path.stat().st_ctime for path in (folder, *folder.rglob("*")))


def _sort(name: str, found: Iterator[Found], before: float) -> tuple[Kind, list[Callable[[], object]]]:
    counts = {"garbage": 0, "garbage_bytes": 0, "kept": 0, "kept_bytes": 0, "young": 0}
    remove = []
    for _, size, at, needed, delete in found:
        garbage = not needed and at < before
        counts["garbage" if garbage else "kept"] += 1
        counts["garbage_bytes" if garbage else "kept_bytes"] += size
        counts["young"] += not needed and not garbage
        if garbage:
            remove.append(delete)
    return Kind(name=name, **counts), remove


def _forget_indexes(repo, roots: Roots) -> None:
    """DVC remembers what its remotes hold; a later push would believe it."""
    for remote in roots.remotes:
        for odb in places(repo, remote)[1:]:
            forget_index(odb)


# the command


def gc_command(root: Path, yes: bool, keep: int | None, keep_days: float | None, grace_hours: float) -> None:
    """Print what was (or would be) removed."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    with console.status("looking") as status:
        found = gc(
            root,
            yes=yes,
            keep=keep,
            keep_days=keep_days,
            grace_hours=grace_hours,
            step=lambda text: status.update(text),
        )
    table = Table()
    removed = "removed" if found.removed else "not needed"
    for column in ("place", removed, "bytes", "kept", "bytes", "of them too young"):
        table.add_column(column, justify="left" if column == "place" else "right")
    for kind in found.kinds:
        row = (kind.garbage, kind.garbage_bytes, kind.kept, kind.kept_bytes, kind.young)
        table.add_row(kind.name, *(f"{value:,}" for value in row))
    console.print(table)
    for version in found.retired:
        console.print(f"{version} {'is' if found.removed else 'would be'} retired: it can no longer be restored")
    total = sum(kind.garbage_bytes for kind in found.kinds)
    if found.removed:
        console.print(f"removed {total:,} bytes")
    else:
        console.print(f"nothing was removed; `--yes` removes {total:,} bytes")
