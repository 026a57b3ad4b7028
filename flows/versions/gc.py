"""`evergreen gc`: delete what no retained version, branch, checkout or run needs.

    roots      every retained version (tags, pointer history, held runs), HEAD, every branch and the user's own tags,
               the checkout as it is, the workspaces of runs                              (flows.versions.roots)
    searched   release store (bundles/, objects/), DVC cache, DVC remotes, caches in .evergreen/cache
                                                                                          (flows.versions.inventory)
    kept       what a root needs, and everything younger than the grace period: a publication may be in progress

DVC's own gc is not used. It knows branches and tags, but neither held runs nor the history of what was live, and it
deletes what a rollback needs.

Retiring old versions is separate, and happens on request only (`keep`, `keep_days`). They are first recorded as retired
in the release store, where every machine sees it, and are no longer roots. Their tags and pointers stay.
"""

import getpass
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

from flows.publishing import registry
from flows.repo.odb import forget_index
from flows.repo.pipeline import open_repo
from flows.repo.remotes import object_databases
from flows.repo.workspace import alive_runs
from flows.versions.inventory import Stored, inventory
from flows.versions.retained import retained
from flows.versions.roots import Roots, read_roots
from tasks.common.checks import Frozen
from tasks.common.errors import EvergreenError
from tasks.common.failpoints import failpoint
from tasks.common.params import load_params
from tasks.common.paths import main_checkout
from tasks.releases.store import Releases, open_store

GRACE_HOURS = 24.0


class PlaceTotals(Frozen):
    """What was found in one place: garbage is not needed by any root; young stays because of the grace period."""

    name: str
    garbage: int = 0
    garbage_bytes: int = 0
    kept: int = 0
    kept_bytes: int = 0
    young: int = 0


class GcReport(Frozen):
    """What gc found, and with `removed` deleted."""

    places: list[PlaceTotals]
    retired: list[str]  # versions retired by this call
    removed: bool


def gc(
    root: Path,
    *,
    yes: bool = False,
    keep: int | None = None,
    keep_days: float | None = None,
    grace_hours: float = GRACE_HOURS,
    step: Callable[[str], None] = lambda text: None,
) -> GcReport:
    """Find what no root needs, and with `yes` delete it.

    keep: retire all but this many of the newest versions. keep_days: retire those last live (or, if never live,
    registered) longer ago. The live version and the one before it always stay. Raises EvergreenError, with nothing
    deleted, if a root cannot be read completely or a run starts meanwhile.
    """
    root = main_checkout(root)
    params = load_params(root / "params.yaml")
    releases = open_store(params.store, root)
    retiring = to_retire(root, releases, params.bundle.name, keep, keep_days)
    if yes:
        for version, why in retiring.items():  # before anything is deleted, so that other machines see why
            releases.retire(version, why, getpass.getuser())
        failpoint("gc.retired")
    before = time.time() - grace_hours * 3600
    repo = open_repo(root)
    try:
        step("what the versions need")
        roots = read_roots(root, repo, releases, params, set(retiring))
        places, garbage = [], []
        for name, found in inventory(root, repo, releases, params, roots):
            step(name)
            totals, deletions = _find_garbage(name, found, before)
            places.append(totals)
            garbage += deletions
        if yes:
            if started := set(alive_runs(root)) - roots.runs:
                raise EvergreenError(f"run {min(started)} started meanwhile: nothing was removed, try again")
            step("removing")
            for delete in garbage:
                delete()
                failpoint("gc.removed")
            _forget_indexes(repo, roots)
    finally:
        repo.close()
    return GcReport(places=places, retired=list(retiring), removed=yes)


def to_retire(root: Path, releases: Releases, name: str, keep: int | None, keep_days: float | None) -> dict[str, str]:
    """Version -> why it is retired, for those that `keep` or `keep_days` selects."""
    if keep is None and keep_days is None:
        return {}
    if keep is not None and keep_days is not None:
        raise EvergreenError("give either --keep or --keep-days: with both it would be unclear which versions stay")
    if (keep if keep is not None else keep_days) < 1:
        raise EvergreenError("--keep and --keep-days start at 1: the live version is never retired")
    history = releases.history()
    live = history[-1] if history else None
    safe = {live.version, live.prev} if live else set()
    versions = [found.name for found in retained(root, releases, name) if found.name.startswith("v")]
    if keep is not None:
        return {found: f"older than the newest {keep}" for found in versions[:-keep] if found not in safe}
    tags = registry.versions(root, name)
    last = {found: datetime.fromtimestamp(tags[found].at, UTC) for found in versions if found in tags}
    for pointer, successor in pairwise(history):
        last[pointer.version] = successor.at  # the time at which it stopped being live
    limit = datetime.now(UTC) - timedelta(days=keep_days)
    return {
        found: f"not live for {keep_days:g} days" for found in versions if found not in safe and last[found] < limit
    }


def _find_garbage(name: str, found: Iterator[Stored], before: float) -> tuple[PlaceTotals, list[Callable[[], object]]]:
    """Count what is stored in one place; returns the totals and the deletions of what is garbage."""
    counts = {"garbage": 0, "garbage_bytes": 0, "kept": 0, "kept_bytes": 0, "young": 0}
    deletions = []
    for stored in found:
        garbage = not stored.needed and stored.changed < before
        counts["garbage" if garbage else "kept"] += 1
        counts["garbage_bytes" if garbage else "kept_bytes"] += stored.size
        counts["young"] += not stored.needed and not garbage
        if garbage:
            deletions.append(stored.delete)
    return PlaceTotals(name=name, **counts), deletions


def _forget_indexes(repo, roots: Roots) -> None:
    """Delete DVC's own record of what its remotes hold: a later push would trust it."""
    for remote in roots.remotes:
        for odb in object_databases(repo, remote)[1:]:
            forget_index(odb)


# the command


def gc_command(root: Path, yes: bool, keep: int | None, keep_days: float | None, grace_hours: float) -> None:
    """Print what was deleted, or would be."""
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
    for place in found.places:
        row = (place.garbage, place.garbage_bytes, place.kept, place.kept_bytes, place.young)
        table.add_row(place.name, *(f"{value:,}" for value in row))
    console.print(table)
    for version in found.retired:
        console.print(f"{version} {'is' if found.removed else 'would be'} retired: it can no longer be restored")
    total = sum(place.garbage_bytes for place in found.places)
    if found.removed:
        console.print(f"removed {total:,} bytes")
    else:
        console.print(f"nothing was removed; `--yes` removes {total:,} bytes")
