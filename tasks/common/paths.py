"""Where the project lies, and the state that all its worktrees share.

State lies in `.evergreen/` of the main checkout: caches, workspaces of runs, the release store, the Prefect server's
home. A run's worktree finds the same state through git's common directory.
"""

import os
from pathlib import Path

from tasks.common.errors import EvergreenError
from tasks.common.private import make_folder


def project_root(start: Path | str | None = None) -> Path:
    """The nearest folder at or above `start` (default: the current one) that holds dvc.yaml and params.yaml."""
    start = Path(start or Path.cwd()).resolve()
    for folder in (start, *start.parents):
        if (folder / "dvc.yaml").is_file() and (folder / "params.yaml").is_file():
            return folder
    raise EvergreenError(
        f"no Evergreen project at or above {start}: expected a folder with dvc.yaml and params.yaml. "
        "Run the command inside a project, or start one with `evergreen init`."
    )


def main_checkout(root: Path) -> Path:
    """The main checkout of the git repository to which the worktree `root` belongs; `root` itself without git."""
    dot_git = root / ".git"
    if not dot_git.is_file():
        return root
    # a worktree's .git is a file "gitdir: <main>/.git/worktrees/<name>" whose commondir is "../.."
    git_dir = (root / dot_git.read_text().removeprefix("gitdir:").strip()).resolve()
    common = git_dir / "commondir"
    return (git_dir / common.read_text().strip()).resolve().parent if common.is_file() else root


def state_dir(root: Path | None = None) -> Path:
    """`.evergreen/` of the main checkout; EVERGREEN_STATE overrides it."""
    if override := os.environ.get("EVERGREEN_STATE"):
        return Path(override).resolve()
    return main_checkout(root or project_root()) / ".evergreen"


def cache_dir(kind: str, root: Path | None = None) -> Path:
    """The folder for rebuildable files of one kind ("inspect", "pixels", "features", ...), made if missing."""
    folder = state_dir(root) / "cache" / kind
    make_folder(folder)
    return folder
