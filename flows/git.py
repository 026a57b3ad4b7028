"""git through its command line: argument lists, never a shell; errors carry git's own words."""

import os
import subprocess
from pathlib import Path

from tasks.errors import EvergreenError

# a hook or alias that calls us hands these down; they would make git act on another repository than `root`
_INHERITED = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_OBJECT_DIRECTORY", "GIT_PREFIX")


def git(root: Path, *arguments: str, env: dict[str, str] | None = None) -> str:
    """Run git in `root` and return its stripped output; `env` adds variables.

    It never waits for a person (no editor, no password prompt). Raises EvergreenError with what git said.
    """
    done = _run(root, arguments, env)
    if done.returncode:
        raise EvergreenError(f"git {arguments[0]} failed in {root}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout.strip()


def _run(root: Path, arguments: tuple[str, ...], env: dict[str, str] | None = None) -> subprocess.CompletedProcess:
    clean = {name: value for name, value in os.environ.items() if name not in _INHERITED}
    return subprocess.run(
        ["git", *arguments],
        cwd=root,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env=clean | {"GIT_EDITOR": "true", "GIT_TERMINAL_PROMPT": "0"} | (env or {}),
    )


def identity(root: Path) -> list[str]:
    """Options that let git commit where the user has configured no identity; empty where there is one."""
    if all(_run(root, ("var", name)).returncode == 0 for name in ("GIT_AUTHOR_IDENT", "GIT_COMMITTER_IDENT")):
        return []
    return ["-c", "user.name=evergreen", "-c", "user.email=evergreen@localhost"]
