"""Refuse to add to a data/ that is not what data.dvc names.

After `git switch` or `git pull`, data/ stays as it was. A command that went on would commit the images of one
branch to another, or leave out what a colleague has added. Files that no branch knows are what a killed command or
--no-commit left: they go into the next commit.
"""

import sqlite3
from pathlib import Path

import yaml

from flows.repo.git import git
from flows.repo.objects import ObjectLost, Objects, open_objects, outs_at
from tasks.common.errors import EvergreenError
from tasks.common.paths import state_dir
from tasks.common.text import join_names

BRANCHES = 20  # the newest, whose data are compared
REMEDY = "`dvc checkout data.dvc` puts into data/ what data.dvc names (`dvc pull data.dvc`, where it is not here yet)"


def refuse_other_data(root: Path) -> None:
    """Raise EvergreenError if data/ lacks what data.dvc names, or holds what only another branch names."""
    from dvc.exceptions import DvcException

    record = root / "data.dvc"
    if not record.is_file() or any((state_dir(root) / "forget").glob("*.json")):  # an erasure goes on by itself
        return
    named = _named(record)
    here = {file.relative_to(root / "data").as_posix() for file in (root / "data").rglob("*") if file.is_file()}
    try:
        with open_objects(root) as objects:
            if (listed := _listed(objects, named)) is None or not (listed ^ here):
                return
            lacking, more = listed - here, here - listed
            other = _branch_of(root, objects, named, more) if more else None
    except (DvcException, sqlite3.Error):  # a full disk, a broken .dvc/config: the command itself says so
        return
    if lacking:
        kept = f". {len(more):,} files of data/ are in no commit: copy the folder first" if more and not other else ""
        raise EvergreenError(
            f"{root / 'data'} lacks {len(lacking):,} files that data.dvc names ({join_names(sorted(lacking), 2)}), as "
            f"after `git pull` or `git switch`: nothing was done. {REMEDY}{kept}"
        )
    if other:
        raise EvergreenError(
            f"{root / 'data'} holds {len(more):,} files of the branch {other} that data.dvc here does not name, as "
            f"after `git switch` or `git reset`: nothing was done. {REMEDY}"
        )


def _named(record: Path) -> str | None:
    """The object id that data.dvc names; None where it says none, which DVC complains about."""
    try:
        (out,) = yaml.safe_load(record.read_text(encoding="utf-8"))["outs"]
        return out["md5"]
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError, ValueError):
        return None


def _listed(objects: Objects, oid: str | None) -> set[str] | None:
    """The files of the folder `oid`; None if it is not here."""
    try:
        return set(objects.files(oid)) if oid else None
    except ObjectLost:
        return None


def _branch_of(root: Path, objects: Objects, named: str | None, files: set[str]) -> str | None:
    """The branch whose data has one of `files`; None if there is none."""
    refs = git(root, "for-each-ref", "--sort=-committerdate", "--format=%(refname:short)", "refs/heads", "refs/remotes")
    seen = {named}
    for ref in refs.split()[:BRANCHES]:
        try:
            data = outs_at(root, ref).get("data")
        except EvergreenError:  # a branch with other things
            continue
        if data not in seen and (_listed(objects, data) or set()) & files:
            return ref
        seen.add(data)
    return None
