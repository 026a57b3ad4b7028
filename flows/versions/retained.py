"""Which versions are kept, and which bytes each of them needs: what verify, gc and forget agree on.

Kept is every version tag, every pointer of the history (a clone may lack tags) and every held run, but for versions
that were retired. A version needs its commit, its bundle in the release store, and every object that the dvc.lock and
.dvc files of its commit name.
"""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from flows.publishing import registry
from flows.publishing.registry import HELD
from flows.repo.git import git
from flows.repo.remotes import places
from tasks.common.checks import Frozen
from tasks.common.errors import EvergreenError
from tasks.releases.store import Releases


class Version(Frozen):
    """A version or held run. `bundle` is the digest it was published with; None: it has none."""

    name: str  # "v0.2.0", or "held <run id>"
    rev: str  # the commit
    bundle: str | None


class Out(Frozen):
    """What a commit's dvc.lock or .dvc files name as one output."""

    path: str  # relative to the project
    oid: str  # md5, with ".dir" for a folder
    remote: str | None  # None: the default one
    push: bool  # does it belong into the remote?


class Object(Frozen):
    """One object of DVC's cache and, where `push`, of its remote."""

    path: str
    oid: str
    remote: str | None
    push: bool


def retained(root: Path, releases: Releases, name: str) -> list[Version]:
    """Every version that must be restorable byte for byte, oldest first; held runs last."""
    found = {
        version: (tag.rev, tag.trailer("Evergreen-Bundle")) for version, tag in registry.versions(root, name).items()
    }
    for pointer in releases.history():  # the pointer was the commit point: it is right where a tag says otherwise
        found[pointer.version] = (pointer.git_rev, pointer.bundle)
    for version in releases.retired():
        found.pop(version, None)
    kept = [Version(name=version, rev=rev, bundle=bundle) for version, (rev, bundle) in found.items()]
    return kept + held(root)


def held(root: Path) -> list[Version]:
    """Runs that wait for a person: their commits stand under refs/evergreen/held."""
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
    """HEAD, every branch here and of the remotes, and the user's own tags; Evergreen's branch and tags aside, whose
    versions `retained` lists."""
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


def outs_at(repo, revs: Iterable[str]) -> dict[str, list[Out]]:
    """Commit -> what it names; a commit without DVC is left out. `repo` is an open dvc.repo.Repo.

    Walked is a repository of its own: going through commits makes DVC read its configuration anew, and `repo` would
    forget where its remote is (see flows.repo.remotes).
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    wanted, found = sorted(set(revs)), {}
    if not wanted:
        return found
    try:
        with Repo(repo.root_dir) as walker:
            for rev in walker.brancher(revs=wanted, workspace=False, sha_only=True):
                found[rev] = outs_of(walker)
    except DvcException as error:
        raise EvergreenError(
            f"the DVC files of one of {', '.join(rev[:12] for rev in wanted)} cannot be read: {error}"
        ) from error
    return found


def outs_of(repo) -> list[Out]:
    """What dvc.lock and the .dvc files name where `repo` stands now."""
    return [
        Out(
            path=out.repo.fs.relpath(out.fs_path, out.repo.root_dir),
            oid=out.hash_info.value,
            remote=out.remote,
            push=out.can_push,
        )
        for out in repo.index.outs
        if out.use_cache and out.hash_info and not out.stage.is_repo_import
    ]


class Listings:
    """The files of folders that were stored with DVC, each listing read once, from the cache or else the remote."""

    def __init__(self, repo):
        self.repo = repo
        self._known: dict[str, list[tuple[str, str]] | None] = {}
        self._places: dict[tuple[str | None, bool], list] = {}

    def files(self, out: Out) -> list[tuple[str, str]] | None:
        """(path in the folder, md5) of each file of folder `out`; None where no whole listing is to be had."""
        if out.oid not in self._known:
            self._known[out.oid] = self._read(out)
        return self._known[out.oid]

    def objects(self, outs: Sequence[Out]) -> tuple[list[Object], list[Out]]:
        """Every object of `outs`, and the folders whose listing is lost."""
        objects, lost = [], []
        for out in outs:
            about = {"remote": out.remote, "push": out.push}
            objects.append(Object(path=out.path, oid=out.oid, **about))
            if out.oid.endswith(".dir"):
                if (files := self.files(out)) is None:
                    lost.append(out)
                objects += [Object(path=f"{out.path}/{path}", oid=oid, **about) for path, oid in files or ()]
        return objects, lost

    def _read(self, out: Out) -> list[tuple[str, str]] | None:
        from dvc_data.hashfile.hash import hash_file
        from dvc_data.hashfile.hash_info import HashInfo
        from dvc_data.hashfile.tree import Tree
        from dvc_objects.errors import ObjectFormatError

        if (place := (out.remote, out.push)) not in self._places:
            self._places[place] = places(self.repo, *place)
        for odb in self._places[place]:
            with suppress(FileNotFoundError, ObjectFormatError):
                path = odb.oid_to_path(out.oid)
                if hash_file(path, odb.fs, odb.hash_name)[1].value == out.oid.removesuffix(".dir"):
                    tree = Tree.load(odb, HashInfo("md5", out.oid))
                    return [("/".join(key), entry.value) for key, _, entry in tree]
        return None
