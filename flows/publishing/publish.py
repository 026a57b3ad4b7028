"""Publication: make a judged bundle the one that is live, so that a kill at any point leaves before or after.

    1  upload the bundle's immutable objects      nothing points at them yet
    2  read them back and hash
    3  commit the run's lock to `releases`, push DVC's objects, audit them, tag the version
    4  compare-and-swap the pointer               the one commit point
    5  stage tag                                  derived from the pointer, completed by `reconcile`

Everything before 4 may be repeated and is found again by the bundle's digest; everything after it follows from
the pointer.
"""

from collections.abc import Callable
from pathlib import Path

from flows.publishing import registry
from tasks.common.errors import EvergreenError
from tasks.common.failpoints import failpoint
from tasks.common.files import sha256_file
from tasks.releases.store import Pointer, PointerMoved, Releases, StoreDamaged, successor


def publish(
    worktree: Path,
    releases: Releases,
    *,
    name: str,
    run_id: str,
    bundle_dir: Path,
    why: str,
    by: str,
    expected: Pointer | None,
    push: Callable[[], None],
) -> Pointer:
    """Make the bundle in `bundle_dir` live in place of `expected`, which it was judged against.

    `push` sends the data and models that the run's dvc.lock names to the DVC remote and raises unless all of
    them are there (`dvc_push`). Returns the new pointer, or the live one when that is this very bundle already.
    Raises PointerMoved when another run was first: judge again.
    """
    failpoint("publish.start")
    digest = sha256_file(bundle_dir / "MANIFEST.json")
    live = releases.live()
    if live is not None and live.bundle == digest:
        return live
    if (live and live.uid) != (expected and expected.uid):
        raise PointerMoved(live)
    if releases.put_bundle(bundle_dir) != digest:
        raise EvergreenError(f"{bundle_dir} changed while it was published: nothing was made live, start the run again")
    failpoint("publish.uploaded")
    releases.audit_bundle(digest)
    failpoint("publish.audited")
    message = f"Release {name} of run {run_id}\n\n{why}"
    known = registry.versions(worktree, name)
    version = registry.version_of(known, digest)
    rev = known[version].rev if version else registry.commit_release(worktree, message, digest)
    failpoint("publish.committed")
    push()
    failpoint("publish.pushed")
    taken = [pointer.version for pointer in releases.history()]
    version, tag = registry.register(worktree, name, rev, message, digest, taken)
    failpoint("publish.registered")
    pointer = releases.promote(
        successor(expected, version=version, run_id=run_id, git_rev=tag.rev, bundle=digest, by=by, why=why)
    )
    failpoint("publish.promoted")
    assign_stages(worktree, releases, name)
    failpoint("publish.assigned")
    return pointer


def assign_stages(root: Path, releases: Releases, name: str) -> list[str]:
    """Give every promotion since the last tagged one its stage tag, in order; what was done."""
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
    """Complete what a killed run left, at the start of the next: its record in the history, its stage tag, its
    unfinished uploads. `root` is any checkout of the repository. Returns what was done."""
    done = []
    if (live := releases.live()) is not None and releases.record(live):
        done.append(f"recorded promotion {live.seq} ({live.version}) in the history")
    done += assign_stages(root, releases, name)
    if removed := releases.sweep():
        done.append(f"removed {removed} unfinished upload(s)")
    return done
