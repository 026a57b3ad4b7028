"""Which checkout keeps something in a place that several checkouts may share.

A copy or a clone of a project is another checkout (tasks.common.checkout).
"""

import getpass
import os
import platform
from pathlib import Path

from tasks.common.checkout import checkout
from tasks.common.checks import Frozen
from tasks.common.paths import main_checkout


class Owner(Frozen):
    """One checkout: its id, and what tells a person which one it is."""

    id: str  # 16 hex digits
    path: str  # of the main checkout
    host: str
    user: str

    def __str__(self) -> str:
        return f"{self.path} on {self.host} (checkout {self.id}, user {self.user})"


def owner_of(root: Path) -> Owner:
    """The checkout that the worktree `root` belongs to. The first call gives it an id."""
    return Owner(id=checkout(root).id, path=str(main_checkout(root).resolve()), host=platform.node(), user=_user())


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # no name for the user id, as in some containers
        return str(os.getuid())
