"""What `evergreen gc` must not delete: all that a version, branch, checkout or run needs.

Every root is read completely before anything is deleted. If a commit, listing or manifest is missing, `read_roots`
raises, and gc deletes nothing. A tombstone removes no root: a tombstoned batch is part of the versions that used it.
"""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from flows.publishing import registry
from flows.repo.outs import Listings, Out, recorded_outs, recorded_outs_of
from flows.repo.pipeline import open_repo
from flows.repo.start_pin import pinned_at
from flows.repo.workspace import alive_runs
from flows.versions.retained import Version, branch_tips, in_rollout, pinned, retained
from tasks.common.checks import Frozen
from tasks.common.errors import EvergreenError
from tasks.common.files import sha256_bytes
from tasks.common.params import Params
from tasks.common.paths import state_dir
from tasks.ingest.erasures import erased_objects
from tasks.releases import bundle_store
from tasks.releases.store import Releases


class Roots(Frozen):
    """What must stay."""

    versions: list[Version]
    oids: frozenset[str]  # of DVC
    remotes: frozenset[str | None]  # names of the DVC remotes that hold anything
    shards: frozenset[str]  # file names without their ending
    digests: frozenset[str]  # of bundles
    keys: frozenset[str]  # of the release store
    runs: frozenset[str]  # alive while the roots were read


def read_roots(root: Path, repo, releases: Releases, params: Params, without: set[str]) -> Roots:
    """Read everything that must stay; `without`: versions that are being retired.

    Raises EvergreenError if it cannot tell what a version needs.
    """
    runs = frozenset(alive_runs(root))
    versions = [found for found in retained(root, releases, params.bundle.name) if found.name not in without]
    for version in versions:
        if not registry.has_commit(root, version.rev):
            raise EvergreenError(
                f"nothing was removed: the commit {version.rev[:12]} of {version.name} is not in this repository, so "
                "what it needs is unknown. Fetch the branch releases and the tags from where it was published."
            )
    tips = branch_tips(root)
    outs = recorded_outs_of(repo, [*(version.rev for version in versions), *tips])
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
    needed += recorded_outs(repo)
    for tree in _run_worktrees(root):
        run = open_repo(tree)
        try:
            needed += recorded_outs(run)
        finally:
            run.close()
    objects, _ = listings.objects(needed)
    digests, keys = _bundles(root, releases, versions)
    return Roots(
        versions=versions,
        oids=frozenset(found.oid for found in objects) - erased_objects(root),  # others may still have them
        remotes=frozenset({found.remote for found in objects} | {None}),
        shards=frozenset(Path(found.path).stem for found in objects if found.path.startswith("data/")),
        digests=digests,
        keys=keys,
        runs=runs,
    )


def _run_worktrees(root: Path) -> Iterator[Path]:
    """Worktrees of runs, finished or not."""
    for tree in sorted(state_dir(root).glob("runs/*/tree")):
        if (tree / ".dvc").is_dir():
            yield tree


def _bundles(root: Path, releases: Releases, versions: list[Version]) -> tuple[frozenset[str], frozenset[str]]:
    """Digests of the bundles that must stay, and the keys of all their objects."""
    digests, keys = set(), set()
    needed = {version.bundle: version.name for version in versions if version.bundle is not None}
    # a version can be trained again only from where its training started
    starts = {pin for version in versions if (pin := pinned_at(root, version.rev))} - needed.keys()
    here = set(pinned(root).values())
    used = (here | set(in_rollout(releases).values())) - needed.keys() - starts  # its tag may not be here
    for bundle in [*needed, *starts, *used]:
        digest = bundle_store.resolve(releases.store, bundle)
        key = f"bundles/{digest}.json"
        if (manifest := releases.store.read(key)) is None:
            if bundle in starts | used:
                digests |= {bundle} & here  # its copy on this machine answers
                continue
            raise EvergreenError(
                f"nothing was removed: {needed[bundle]} needs {key}, which is not in the release store. `evergreen "
                "verify` says what can be done."
            )
        digests |= {digest, bundle}
        keys |= {key} | {f"objects/{sha256}" for sha256 in bundle_store.files(manifest[0], key).values()}
    for manifest in state_dir(root).glob("runs/*/tree/artifacts/bundle/MANIFEST.json"):  # a run may be publishing it
        with suppress(FileNotFoundError):
            content = manifest.read_bytes()
            digest = sha256_bytes(content)
            digests.add(digest)
            keys |= {f"bundles/{digest}.json"}
            keys |= {f"objects/{sha256}" for sha256 in bundle_store.files(content, manifest).values()}
    return frozenset(digests), frozenset(keys)
