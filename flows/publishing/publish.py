"""Publish a judged bundle: a kill at any point leaves the old version or the new one live.

    1  upload the bundle's immutable objects      nothing points at them yet
    2  read them back and hash
    3  commit the run's lock to `releases`, push DVC's objects, audit them, tag the version
    4  compare-and-swap the pointer               the one commit point
    5  stage tag                                  derived from the pointer, completed by `reconcile`

Every step before 4 can be repeated: what it made is found again by the bundle's digest. Every step after 4 follows from
the pointer.
"""

from collections.abc import Callable
from pathlib import Path

from flows.publishing import registry
from flows.repo.push import dvc_push
from tasks.common.checks import Frozen
from tasks.common.errors import EvergreenError
from tasks.common.failpoints import failpoint
from tasks.common.files import sha256_file
from tasks.releases.pointer import Pointer, successor
from tasks.releases.rollout import rollouts
from tasks.releases.store import PointerMoved, Releases, StoreDamaged


class Publication(Frozen):
    """What is published, for which reason and by whom. The bundle is artifacts/bundle in `worktree`."""

    worktree: Path
    name: str  # bundle.name in params.yaml: the prefix of the version's tags
    run_id: str
    why: str
    by: str

    @property
    def bundle(self) -> Path:
        return self.worktree / "artifacts/bundle"


def publish(
    new: Publication, releases: Releases, expected: Pointer | None, push: Callable[[Path], None] = dvc_push
) -> Pointer:
    """Make `new` live in place of `expected`, which it was judged against; returns the new pointer.

    If this very bundle is live already, its pointer is returned. push: sends the data and models that dvc.lock in the
    worktree records to the DVC remote, and raises unless all of them arrived. Raises PointerMoved if another run
    published first: judge again.
    """
    failpoint("publish.start")
    digest = sha256_file(new.bundle / "MANIFEST.json")
    live = releases.live()
    if live is not None and live.bundle == digest:
        return live
    if (live and live.uid) != (expected and expected.uid):
        raise PointerMoved(live)
    if releases.put_bundle(new.bundle) != digest:
        raise EvergreenError(f"{new.bundle} changed while it was published: nothing was made live, start the run again")
    failpoint("publish.uploaded")
    releases.audit_bundle(digest)
    failpoint("publish.audited")
    message = f"Release {new.name} of run {new.run_id}\n\n{new.why}"
    known = registry.versions(new.worktree, new.name)
    version = registry.version_of(known, digest)
    rev = known[version].rev if version else registry.commit_release(new.worktree, message, digest)
    failpoint("publish.committed")
    push(new.worktree)
    failpoint("publish.pushed")
    reserved = {one.version: one.bundle for one in rollouts(releases)}
    own = next((name for name, bundle in reversed(reserved.items()) if bundle == digest), None)
    taken = [*(pointer.version for pointer in releases.history()), *(name for name in reserved if name != own)]
    version, tag = registry.register(new.worktree, new.name, rev, message, digest, taken, own)
    failpoint("publish.registered")
    about = {"version": version, "run_id": new.run_id, "git_rev": tag.rev, "bundle": digest}
    pointer = releases.promote(successor(expected, by=new.by, why=new.why, **about))
    failpoint("publish.promoted")
    assign_stages(new.worktree, releases, new.name)
    failpoint("publish.assigned")
    return pointer


def assign_stages(root: Path, releases: Releases, name: str) -> list[str]:
    """Give every promotion since the last tagged one its stage tag, in order; returns what was done."""
    live = releases.live()
    done = []
    for seq in range(registry.last_assigned(root, name) + 1, live.seq + 1 if live else 0):
        pointer = live if seq == live.seq else releases.promoted(seq)
        if pointer is None:
            raise StoreDamaged(f"promotion {seq} is missing from the history in the release store: restore pointers/")
        if not registry.has_commit(root, pointer.git_rev):
            done.append(
                f"promotion {seq} ({pointer.version}) has no stage tag here: this repository lacks its commit "
                f"{pointer.git_rev[:12]}; fetch the branch releases and the tags from where it was published"
            )
        elif registry.assign_prod(root, name, pointer):
            done.append(f"tagged {pointer.version} as live (promotion {seq})")
    return done


def reconcile(root: Path, releases: Releases, name: str) -> list[str]:
    """Complete what a killed publication left: its record in the history, its stage tag, its unfinished uploads.

    Each run calls this first. `root` is any checkout of the repository. Returns what was done.
    """
    done = []
    if (live := releases.live()) is not None and releases.record(live):
        done.append(f"recorded promotion {live.seq} ({live.version}) in the history")
    done += assign_stages(root, releases, name)
    if removed := releases.sweep():
        done.append(f"removed {removed} unfinished upload(s)")
    return done
