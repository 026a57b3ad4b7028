"""git through its command line: argument lists, never a shell; errors carry git's own words."""

import subprocess
from pathlib import Path

from tasks.errors import EvergreenError


def git(root: Path, *arguments: str, env: dict[str, str] | None = None) -> str:
    """Run git in `root` and return its stripped output. Raises EvergreenError with what git said."""
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, env=env)
    if done.returncode:
        raise EvergreenError(f"git {arguments[0]} failed in {root}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout.strip()


def identity(root: Path) -> list[str]:
    """Options that let git commit where the user has configured no identity; empty where there is one."""
    done = subprocess.run(["git", "var", "GIT_COMMITTER_IDENT"], cwd=root, capture_output=True, text=True)
    if done.returncode == 0:
        return []
    return ["-c", "user.name=evergreen", "-c", "user.email=evergreen@localhost"]
