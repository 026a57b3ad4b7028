"""The outputs that commits and checkouts record in DVC, and the objects that these consist of.

`verify`, `gc` and `forget` use the same answer to "which bytes does this version need?".
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from flows.repo.odb import read_listing
from flows.repo.remotes import object_databases, private_config
from tasks.common.checks import Frozen
from tasks.common.errors import EvergreenError


class Out(Frozen):
    """One output that dvc.lock or a .dvc file records."""

    path: str  # relative to the project
    oid: str  # md5, with ".dir" for a folder
    remote: str | None  # None: the default one
    push: bool  # does the output belong in the remote?


class DvcObject(Frozen):
    """One object of DVC's cache and, if `push`, of its remote."""

    path: str
    oid: str
    remote: str | None
    push: bool


def recorded_outs(repo) -> list[Out]:
    """What dvc.lock and the .dvc files record in the checkout of `repo`, an open dvc.repo.Repo."""
    return [out_of(out) for out in repo.index.outs if out.use_cache and out.hash_info and not out.stage.is_repo_import]


def out_of(out) -> Out:
    """A dvc.output.Output whose hash is known as an `Out`."""
    path = out.repo.fs.relpath(out.fs_path, out.repo.root_dir)
    return Out(path=path, oid=out.hash_info.value, remote=out.remote, push=out.can_push)


def recorded_outs_of(repo, revs: Iterable[str]) -> dict[str, list[Out]]:
    """Commit -> its outputs; a commit without DVC files is left out.

    A second Repo visits the commits. Visiting makes DVC read its configuration again, and `repo` would lose the
    remotes that flows.repo.remotes has set.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    wanted, found = sorted(set(revs)), {}
    if not wanted:
        return found
    try:
        with Repo(repo.root_dir, config=private_config(Path(repo.root_dir)) or None) as visitor:
            for rev in visitor.brancher(revs=wanted, workspace=False, sha_only=True):
                found[rev] = recorded_outs(visitor)
    except DvcException as error:
        raise EvergreenError(
            f"the DVC files of one of {', '.join(rev[:12] for rev in wanted)} cannot be read: {error}"
        ) from error
    return found


class Listings:
    """The files of folders stored with DVC. Each listing is read once, from the cache or else from the remote."""

    def __init__(self, repo):
        self.repo = repo
        self._read: dict[str, list[tuple[str, str]] | None] = {}
        self._databases: dict[tuple[str | None, bool], list] = {}

    def files(self, out: Out) -> list[tuple[str, str]] | None:
        """(path in the folder, md5) of each file of folder `out`; None if no undamaged listing exists."""
        if out.oid not in self._read:
            if (place := (out.remote, out.push)) not in self._databases:
                self._databases[place] = object_databases(self.repo, *place)
            found = (read_listing(odb, out.oid) for odb in self._databases[place])
            self._read[out.oid] = next((listing for listing in found if listing is not None), None)
        return self._read[out.oid]

    def objects(self, outs: Sequence[Out]) -> tuple[list[DvcObject], list[Out]]:
        """Every object of `outs`, and the folders whose listing is lost."""
        objects, lost = [], []
        for out in outs:
            about = {"remote": out.remote, "push": out.push}
            objects.append(DvcObject(path=out.path, oid=out.oid, **about))
            if out.oid.endswith(".dir"):
                if (files := self.files(out)) is None:
                    lost.append(out)
                objects += [DvcObject(path=f"{out.path}/{path}", oid=oid, **about) for path, oid in files or ()]
        return objects, lost
