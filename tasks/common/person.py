"""Who acts: the name that decisions, labels and commits record.

    with acting_as("Ann"):      # what Ann does in the console
        exclude(root, ids, why)

A process that works for a person has the name in its environment (EVERGREEN_PERSON). Elsewhere it is git's user.name,
so that the terminal, the console and the history of commits name a person alike; without one, the login name.
"""

import getpass
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

VARIABLE = "EVERGREEN_PERSON"

_acting: ContextVar[str | None] = ContextVar("acting", default=None)


def person(root: Path) -> str:
    """The name of who acts in the project at `root`."""
    return _acting.get() or os.environ.get(VARIABLE) or owner_name(root)


def owner_name(root: Path) -> str:
    """git's user.name in the project at `root`; the login name if git knows none."""
    try:
        found = subprocess.run(
            ["git", "config", "user.name"], cwd=root, capture_output=True, text=True, stdin=subprocess.DEVNULL
        )
        name = found.stdout.strip()
    except OSError:  # no git, or no such folder
        name = ""
    return name or _login()


@contextmanager
def acting_as(name: str) -> Iterator[None]:
    """Within it, `person` is `name`."""
    token = _acting.set(name)
    try:
        yield
    finally:
        _acting.reset(token)


def _login() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # no name for the user id, as in some containers
        return str(os.getuid())
