"""What an upgrade refuses before it changes anything, each with the way out."""

import os
from pathlib import Path

from flows.project.merge import File
from flows.project.moves import moved_to
from flows.repo.git import git
from tasks.common.errors import EvergreenError

UNDER_WAY = {  # file in .git -> (what goes on, how it ends)
    "MERGE_HEAD": ("a merge", "`git merge --continue` or `git merge --abort`"),
    "CHERRY_PICK_HEAD": ("a cherry-pick", "`git cherry-pick --continue` or `--abort`"),
    "REVERT_HEAD": ("a revert", "`git revert --continue` or `--abort`"),
    "rebase-merge": ("a rebase", "`git rebase --continue` or `--abort`"),
    "rebase-apply": ("a rebase", "`git rebase --continue` or `--abort`"),
    "BISECT_LOG": ("a bisection", "`git bisect reset`"),
}
CODE = ("tasks/", "flows/", "monitoring/", "serving/")


def check_project(root: Path, source: Path) -> None:
    """Raise EvergreenError where `root` cannot be upgraded with the code in `source`, saying what to do first."""
    root, source = root.resolve(), source.resolve()
    if root == source:
        raise EvergreenError(
            f"{root} holds the very code that runs this command. Run it from a newer Evergreen: "
            "`evergreen upgrade --from CHECKOUT`, where CHECKOUT is a clone of Evergreen. To get a newer clone of "
            "Evergreen itself, use `git pull`."
        )
    top = Path(git(root, "rev-parse", "--show-toplevel")).resolve()
    if top != root:
        raise EvergreenError(
            f"{root} is part of the git repository {top}: an upgrade needs the project to be one itself"
        )
    for name, (what, end) in UNDER_WAY.items():
        if (root / git(root, "rev-parse", "--git-path", name)).exists():
            raise EvergreenError(f"{what} is under way in {root}: end it first ({end}), then upgrade")
    if git(root, "ls-files", "--unmerged"):
        raise EvergreenError(
            f"conflicts in {root} wait for you (`git status` lists them): resolve them, `git add` each, `git commit`. "
            "Or give up with `git reset --hard`. Then upgrade"
        )
    if (branch := git(root, "rev-parse", "--abbrev-ref", "HEAD")) == "HEAD":
        raise EvergreenError(f"HEAD of {root} is on no branch: `git switch BRANCH` first, so that the upgrade has one")
    changed = git(root, "status", "--porcelain", "--untracked-files=no").splitlines()
    changed += git(root, "status", "--porcelain", "--untracked-files=all", "--", *CODE).splitlines()
    if changed := list(dict.fromkeys(changed)):
        more = f"\n  ... and {len(changed) - 10} more" if len(changed) > 10 else ""
        shown = "\n  ".join(changed[:10])
        raise EvergreenError(
            f"{root} (branch {branch}) has changes that are not committed:\n  {shown}{more}\nCommit or `git "
            "stash` them first, so that the upgrade stands alone and can be undone"
        )


def refuse_older(root: Path, old: str, source: Path, new: str) -> None:
    """Raise EvergreenError where the project has a newer Evergreen than `source`; unknown versions pass."""
    try:
        older = tuple(map(int, new.split("."))) < tuple(map(int, old.split(".")))
    except ValueError:
        return
    if older:
        raise EvergreenError(
            f"{root} has Evergreen {old}, and {source} is the older {new}, which may not read newer files. "
            "To go back, `git revert` the commit of the upgrade"
        )


def refuse_taken(root: Path, was: dict[str, File], ours: dict[str, File], theirs: dict[str, File]) -> None:
    """Raise EvergreenError where a file of the user is at the new place of a file of Evergreen that moves."""
    targets = {moved_to(name) for name in was if name not in theirs} - was.keys()
    if taken := sorted(name for name in targets if name in theirs and name in ours):
        raise EvergreenError(
            f"{', '.join(taken)}: your own in {root}, but Evergreen's files move there. Move yours, commit, and upgrade"
        )


def check_clashes(root: Path, entries: dict[str, File], ours: dict[str, File]) -> None:
    """Raise EvergreenError where a file of the user would be overwritten or hidden."""
    if there := sorted(name for name in entries if name not in ours and os.path.lexists(root / name)):
        more = f" and {len(there) - 5} more" if len(there) > 5 else ""
        raise EvergreenError(
            f"{', '.join(there[:5])}{more}: not in git (ignored, perhaps), and the upgrade would overwrite them. Move "
            "them elsewhere, then upgrade"
        )
    for name in entries:
        if name.endswith(".py") and f"{name.removesuffix('.py')}/__init__.py" in entries:
            raise EvergreenError(
                f"{name} is a module of yours, and Evergreen now has a package of that name, which would hide it: "
                "rename yours, commit, and upgrade"
            )
        for parent in list(Path(name).parents)[:-1]:
            if parent.as_posix() in entries:
                raise EvergreenError(
                    f"{parent} is a file of yours, and Evergreen now has a folder there: move it, commit"
                )


def check_clean_head(root: Path) -> None:
    """Raise EvergreenError where tracked files changed since the plan was made."""
    if changed := git(root, "status", "--porcelain", "--untracked-files=no"):
        raise EvergreenError(f"{root} changed while the upgrade was planned: {changed.splitlines()[0]}. Start it again")
