"""git through its command line: argument lists, never a shell; errors carry git's own words."""

import os
import subprocess
from pathlib import Path

from tasks.common.errors import EvergreenError

# a hook or alias that calls us hands these down; they would make git act on another repository than `root`
_INHERITED = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_OBJECT_DIRECTORY", "GIT_PREFIX")


def git(root: Path, *arguments: str, env: dict[str, str] | None = None) -> str:
    """Run git in `root` and return its stripped output; `env` adds variables.

    It never waits for a person (no editor, no password prompt). Raises EvergreenError with what git said.
    """
    done = _run(root, arguments, env)
    if done.returncode:
        command = next((word for word in arguments if not word.startswith("-") and "=" not in word), "")
        raise EvergreenError(f"git {command} failed in {root}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout.strip()


def check_repository(root: Path, commit: bool = True) -> None:
    """Raises EvergreenError where `root` is in no git repository, or (with `commit`) in one without a commit."""
    found = _run(root, ("rev-parse", "--is-inside-work-tree"))
    if found.returncode and "not a git repository" in found.stderr:
        raise EvergreenError(
            f"{root} is in no git repository, and Evergreen keeps its data's name and its releases in one: `git init`, "
            "commit the project (`git add --all`, then `git commit`), and start again"
        )
    if found.returncode:
        raise EvergreenError(f"git cannot use {root}: {found.stderr.strip()}")
    if commit and _run(root, ("rev-parse", "--verify", "--quiet", "HEAD")).returncode:
        raise EvergreenError(
            f"the git repository {root} has no commit yet, and a run uses committed files only: "
            "`git add --all`, then `git commit`"
        )


def _run(root: Path, arguments: tuple[str, ...], env: dict[str, str] | None = None) -> subprocess.CompletedProcess:
    clean = {name: value for name, value in os.environ.items() if name not in _INHERITED}
    try:
        return subprocess.run(
            ["git", *arguments],
            cwd=root,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            env=clean | {"GIT_EDITOR": "true", "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"} | (env or {}),
        )
    except FileNotFoundError:
        raise EvergreenError("git is not installed (or not on PATH): Evergreen keeps its versions in it") from None


def identity(root: Path) -> list[str]:
    """Options that let git commit where the user has configured no identity; empty where there is one."""
    if all(_run(root, ("var", name)).returncode == 0 for name in ("GIT_AUTHOR_IDENT", "GIT_COMMITTER_IDENT")):
        return []
    return ["-c", "user.name=evergreen", "-c", "user.email=evergreen@localhost"]
