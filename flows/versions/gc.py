"""`evergreen gc`: delete what no retained version, branch, checkout or run needs.

    roots      every retained version (tags, pointer history, held runs), HEAD, every branch and the user's own tags,
               the checkout as it is, the workspaces of runs                              (flows.versions.roots)
    searched   release store (bundles/, objects/), DVC cache, DVC remotes, caches in .evergreen/cache
                                                                                          (flows.versions.inventory)
    kept       what a root needs, and everything younger than the grace period: a publication may be in progress

Store, cache and remotes may be shared. What another checkout's ledger names stays, and where objects exist that no
ledger names, everything stays (tasks.storage.ledgers).

DVC's own gc is not used. It knows branches and tags, but neither held runs nor the history of what was live, and it
deletes what a rollback needs.

Retiring old versions is separate, and happens on request only (`keep`, `keep_days`). They are first recorded as retired
in the release store, where every machine sees it, and are no longer roots. Their tags and pointers stay.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

from flows.publishing import registry
from flows.repo.ledger import is_private
from flows.repo.odb import forget_index
from flows.repo.pipeline import open_repo
from flows.repo.remotes import object_databases
from flows.repo.workspace import alive_runs
from flows.versions.inventory import SharedPlace, Stored, own_caches, remote_places, shared_places
from flows.versions.retained import in_rollout, pinned, retained
from flows.versions.roots import Roots, read_roots
from tasks.common.checks import Frozen
from tasks.common.errors import EvergreenError
from tasks.common.failpoints import failpoint
from tasks.common.files import try_locked
from tasks.common.owner import Owner, owner_of
from tasks.common.params import load_params
from tasks.common.paths import main_checkout, state_dir
from tasks.common.person import person
from tasks.releases.store import Releases, open_store
from tasks.storage.ledgers import collecting, read_ledgers

GRACE_HOURS = 24.0


class PlaceTotals(Frozen):
    """What was found in one place.

    garbage: only this checkout's ledger names it, and no root needs it. young: garbage that stays because of the grace
    period. others: this checkout needs it no longer, others do. unowned: no ledger names it, so nothing is deleted.
    """

    name: str
    place: str = ""  # the address
    garbage: int = 0
    garbage_bytes: int = 0
    kept: int = 0
    kept_bytes: int = 0
    young: int = 0
    others: int = 0
    others_bytes: int = 0
    unowned: int = 0
    users: list[str] = []  # the other checkouts with a ledger
    gone: dict[str, str] = {}  # id -> path of those whose folder does not exist any more


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
    claim_all: bool = False,
    retire_checkout: str | None = None,
    step: Callable[[str], None] = lambda text: None,
) -> GcReport:
    """Find what no root needs, and with `yes` delete it.

    keep: retire all but this many of the newest versions. keep_days: retire those last live (or, if never live,
    registered) longer ago. The live one, the one before it, those in a rollout and the one that is pinned here stay.
    claim_all: treat what no ledger names as this checkout's own. retire_checkout: take over the ledger of a checkout
    that does not exist any more. Raises EvergreenError, with nothing deleted, if a root or a ledger cannot be read
    completely or a run starts meanwhile.
    """
    root = main_checkout(root)
    params = load_params(root / "params.yaml")
    releases = open_store(params.store, root)
    retiring = to_retire(root, releases, params.bundle.name, keep, keep_days)
    before = time.time() - grace_hours * 3600
    repo = open_repo(root)
    with ExitStack() as stack:
        stack.callback(repo.close)
        if yes:
            _refuse_second(stack, root)
        shared = [_Look(place, owner_of(root), stack, yes) for place in shared_places(repo, releases)]
        _check_checkout(root, shared, retire_checkout)
        if yes:
            for version, why in retiring.items():  # before anything is deleted, so that other machines see why
                releases.retire(version, why, person(root))
            failpoint("gc.retired")
        step("what the versions need")
        roots = read_roots(root, repo, releases, params, set(retiring))
        known = {look.place.files.place for look in shared}
        further = remote_places(repo, sorted(roots.remotes - {None, repo.config["core"].get("remote")}))
        shared += [_Look(place, owner_of(root), stack, yes) for place in further if place.files.place not in known]
        for look in shared:
            step(look.place.name)
            look.find(roots, before, claim_all, retire_checkout)
        places, garbage = [look.totals for look in shared], []
        for name, found in own_caches(root, params, roots):
            step(name)
            totals, deletions = _find_garbage(name, found, before)
            places.append(totals)
            garbage += deletions
        if yes:
            if started := set(alive_runs(root)) - roots.runs:
                raise EvergreenError(f"run {min(started)} started meanwhile: nothing was removed, try again")
            step("removing")
            for look in shared:
                look.remove()
            for delete in garbage:
                delete()
                failpoint("gc.removed")
            _forget_indexes(repo, roots)
    return GcReport(places=places, retired=list(retiring), removed=yes)


class _Look:
    """What one shared place holds, for whom, and what of it can be deleted.

    With `yes` this gc is announced there until `stack` is closed, so no writer relies on what is about to be deleted.
    """

    def __init__(self, place: SharedPlace, owner: Owner, stack: ExitStack, yes: bool):
        self.place, self.owner = place, owner
        self.collecting = stack.enter_context(collecting(place.files, owner)) if yes else None
        self.ledgers = self.collecting.ledgers if self.collecting else read_ledgers(place.files)

    def find(self, roots: Roots, before: float, claim_all: bool, retire_checkout: str | None) -> None:
        """Sort what is stored: needed, young, of others, without an owner, garbage."""
        mine = {self.owner.id, retire_checkout}
        own = set(self.place.needed(roots)).union(*(self.ledgers[name].names for name in mine & self.ledgers.keys()))
        others = {name: ledger for name, ledger in self.ledgers.items() if name not in mine}
        named = set().union(*(ledger.names for ledger in others.values()))
        stored = list(self.place.stored(roots))
        unowned = {found.name for found in stored} - own - named
        if claim_all:
            own, unowned = own | unowned, set()
        unneeded = [found for found in stored if not found.needed and found.name in own]
        old = [found for found in unneeded if found.changed < before]
        shared = [found for found in old if found.name in named]
        self.garbage = [] if unowned else [found for found in old if found.name not in named]
        self.left = own - {found.name for found in (*shared, *self.garbage)}
        self.retire = retire_checkout if retire_checkout in self.ledgers else None
        self.totals = PlaceTotals(
            name=self.place.name,
            place=self.place.files.place,
            garbage=len(self.garbage),
            garbage_bytes=sum(found.size for found in self.garbage),
            kept=len(stored) - len(self.garbage),
            kept_bytes=sum(found.size for found in stored) - sum(found.size for found in self.garbage),
            young=len(unneeded) - len(old),
            others=len(shared),
            others_bytes=sum(found.size for found in shared),
            unowned=len(unowned),
            users=[str(ledger.owner) for ledger in others.values()],
            gone={ledger.owner.id: ledger.owner.path for ledger in others.values() if ledger.gone},
        )

    def remove(self) -> None:
        """Delete the garbage, then shorten the ledger."""
        for found in self.garbage:
            self.collecting.keep_alive()
            found.delete()
            failpoint("gc.removed")
        if self.retire:
            self.collecting.take_over(self.retire, self.left)
        else:
            self.collecting.replace(self.left)


def _refuse_second(stack: ExitStack, root: Path) -> None:
    if not stack.enter_context(try_locked(state_dir(root) / "gc.lock")):
        raise EvergreenError(f"another `evergreen gc` is deleting for {root}: wait until it has ended")


def _check_checkout(root: Path, shared: list[_Look], checkout: str | None) -> None:
    """Raise EvergreenError unless `checkout` (None: none) has a ledger and is certainly not this one or in use."""
    if checkout is None:
        return
    found = [(look, look.ledgers[checkout]) for look in shared if checkout in look.ledgers]
    if checkout == owner_of(root).id or not found:
        known = sorted({str(ledger.owner) for look in shared for ledger in look.ledgers.values()})
        raise EvergreenError(f"no other checkout {checkout!r} has a ledger here. Ledgers: {'; '.join(known) or 'none'}")
    for look, ledger in found:
        if not ledger.gone and not is_private(look.place.files, root):
            raise EvergreenError(
                f"{ledger.owner} may still use {look.place.files.place}: on this machine its folder must be gone, and "
                "for one on another machine run `evergreen gc --yes` there. If it is gone for good, delete the folder "
                f"of its ledger, {checkout}, there; then `--claim` takes over what it named"
            )


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
    safe |= in_rollout(releases).keys() | pinned(root).keys()
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


def gc_command(root: Path, **options) -> None:
    """Print what was deleted, or would be."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    with console.status("looking") as status:
        found = gc(root, **options, step=lambda text: status.update(text))
    table = Table()
    removed = "removed" if found.removed else "not needed"
    for column in ("place", removed, "bytes", "kept", "bytes", "of them too young", "of others"):
        table.add_column(column, justify="left" if column == "place" else "right")
    for place in found.places:
        row = (place.garbage, place.garbage_bytes, place.kept, place.kept_bytes, place.young, place.others)
        table.add_row(place.name, *(f"{value:,}" for value in row))
    console.print(table)
    for version in found.retired:
        console.print(f"{version} {'is' if found.removed else 'would be'} retired: it can no longer be restored")
    for line in shared_sentences(found.places):
        console.print(line, soft_wrap=True, markup=False)
    total = sum(place.garbage_bytes for place in found.places)
    if found.removed:
        console.print(f"removed {total:,} bytes")
    else:
        work = total or found.retired
        console.print(f"nothing was removed; `--yes` removes {total:,} bytes" if work else "nothing to remove")


def shared_sentences(places: list[PlaceTotals]) -> list[str]:
    """What stays because of others, and what a person can do about it."""
    lines = []
    for place in places:
        if place.unowned:
            lines.append(
                f"{place.name} {place.place}: {place.unowned:,} object(s) are in no ledger: another project, plain DVC "
                "or an older Evergreen stored them, so nothing is removed there. Run `evergreen gc --yes` in each "
                "project that uses it. If only this project does, `evergreen gc --claim` takes them as its own."
            )
        if place.others:
            lines.append(
                f"{place.name} {place.place}: {place.others:,} object(s) ({place.others_bytes:,} bytes) stay for "
                f"{'; '.join(place.users)}"
            )
    gone = {checkout: path for place in places for checkout, path in place.gone.items()}
    for checkout, path in sorted(gone.items()):
        lines.append(
            f"{path} does not exist any more. If it is gone for good, `evergreen gc --retire-checkout {checkout}` "
            "takes over what only it needed."
        )
    return lines
