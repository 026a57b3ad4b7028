"""Which versions must stay restorable; `verify`, `gc` and `forget` agree on this list.

Retained are: every version tag, every pointer of the history (a clone may lack tags) and every held run, except
versions that were retired. A version needs its commit, its bundle in the release store, and every object that the
dvc.lock and .dvc files of its commit record (flows.repo.outs).
"""

from pathlib import Path

from flows.publishing import registry
from flows.publishing.registry import HELD
from flows.repo.git import git
from tasks.common.checks import Frozen
from tasks.releases.rollout import active
from tasks.releases.store import Releases
from tasks.releases.switches import read_switches


class Version(Frozen):
    """A version or held run. `bundle` is the digest it was published with; None: it has no bundle."""

    name: str  # "v0.2.0", or "held <run id>"
    rev: str  # the commit
    bundle: str | None


def retained(root: Path, releases: Releases, name: str) -> list[Version]:
    """Every version that must be restorable byte for byte, oldest first; held runs last."""
    found = {
        version: (tag.rev, tag.trailer("Evergreen-Bundle")) for version, tag in registry.versions(root, name).items()
    }
    for pointer in releases.history():  # the pointer was the commit point, so it wins over a tag that differs
        found[pointer.version] = (pointer.git_rev, pointer.bundle)
    for version in releases.retired():
        found.pop(version, None)
    kept = [Version(name=version, rev=rev, bundle=bundle) for version, (rev, bundle) in found.items()]
    return kept + held_runs(root)


def in_rollout(releases: Releases) -> dict[str, str]:
    """Version -> digest of its bundle: the challenger of a rollout that goes on, and the champion beside it."""
    if (rollout := active(releases)) is None:
        return {}
    return {rollout.version: rollout.bundle, rollout.champion: rollout.champion_bundle}


def pinned(root: Path) -> dict[str, str]:
    """Version -> digest of its bundle: what the predictor of this machine is pinned to. Raises SwitchesDamaged."""
    pin = read_switches(root).pin
    return {pin.version: pin.bundle} if pin else {}


def held_runs(root: Path) -> list[Version]:
    """Runs that wait for a person's approval: refs/evergreen/held names their commits."""
    listing = git(root, "for-each-ref", "--format=%(refname)%00%(objectname)%00%(contents)%00%01", HELD)
    rows = [row.lstrip("\n").split("\0") for row in listing.split("\0\1") if row.strip()]
    found = []
    for ref, rev, text in rows:
        commit = git(root, "rev-parse", f"{rev}^{{commit}}")
        tag = registry.Tag(name=ref, rev=commit, at=0, message=text)
        found.append(
            Version(name=f"held {ref.removeprefix(HELD + '/')}", rev=commit, bundle=tag.trailer("Evergreen-Bundle"))
        )
    return found


def branch_tips(root: Path) -> list[str]:
    """HEAD, every local and remote branch, and the user's own tags.

    Evergreen's branch and tags are left out: `retained` lists their versions.
    """
    listing = git(
        root,
        "for-each-ref",
        "--format=%(refname) %(objectname) %(*objectname)",
        "refs/heads",
        "refs/remotes",
        "refs/tags",
        "refs/stash",
    )
    tips = {git(root, "rev-parse", "HEAD")}
    for line in listing.splitlines():
        ref, *revs = line.split()
        ours = (
            ref == registry.BRANCH
            or ref.endswith("/releases")
            or (ref.startswith("refs/tags/") and ("@" in ref or "#" in ref))
        )
        if not ours:
            tips.add(revs[-1])
    return sorted(tips)
