"""Run git through its command line, and report errors in git's own words.

Arguments are passed as lists, never through a shell.
"""

import os
import subprocess
from pathlib import Path

from tasks.common.errors import EvergreenError

# A git hook or alias that calls Evergreen sets these. They would make git act on another repository than `root`.
_INHERITED = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_OBJECT_DIRECTORY", "GIT_PREFIX")


def git(root: Path, *arguments: str, env: dict[str, str] | None = None) -> str:
    """Run git in `root` and return its stripped output; `env` adds variables.

    Git never waits for input (no editor, no password prompt). Raises EvergreenError with git's message.
    """
    done = _run(root, arguments, env)
    if done.returncode:
        command = next((word for word in arguments if not word.startswith("-") and "=" not in word), "")
        raise EvergreenError(f"git {command} failed in {root}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout.strip()


def check_repository(root: Path, commit: bool = True) -> None:
    """Raise EvergreenError if `root` is outside a git repository or, with `commit`, if that has no commit yet."""
    found = _run(root, ("rev-parse", "--is-inside-work-tree"))
    if found.returncode and "not a git repository" in found.stderr:
        raise EvergreenError(
            f"{root} is not in a git repository. Evergreen records data versions and releases in git: run `git init`, "
            "commit the project (`git add --all`, then `git commit`), and start again."
        )
    if found.returncode:
        raise EvergreenError(f"git cannot use {root}: {found.stderr.strip()}")
    if commit and _run(root, ("rev-parse", "--verify", "--quiet", "HEAD")).returncode:
        raise EvergreenError(
            f"the git repository {root} has no commit yet, and a run uses committed files only: "
            "`git add --all`, then `git commit`"
        )


def identity_options(root: Path) -> list[str]:
    """Options that let git commit when the user has configured no identity; empty if one is configured."""
    if all(_run(root, ("var", name)).returncode == 0 for name in ("GIT_AUTHOR_IDENT", "GIT_COMMITTER_IDENT")):
        return []
    return ["-c", "user.name=evergreen", "-c", "user.email=evergreen@localhost"]


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
        raise EvergreenError("git is not installed or not on PATH: Evergreen records its versions in git") from None


def git_bytes(root: Path, *arguments: str, stdin: bytes = b"", env: dict[str, str] | None = None) -> bytes:
    """Output of git in `root` byte for byte, with `stdin` as its input. Raises EvergreenError with what git said."""
    clean = {name: value for name, value in os.environ.items() if name not in _INHERITED}
    done = subprocess.run(
        ["git", *arguments],
        cwd=root,
        input=stdin,
        capture_output=True,
        env=clean | {"GIT_EDITOR": "true", "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"} | (env or {}),
    )
    if done.returncode:
        raise EvergreenError(f"git {arguments[0]} failed in {root}: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout
