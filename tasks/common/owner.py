"""Which checkout keeps something in a place that several checkouts may share.

A copy or a clone of a project is another checkout. So the id lies in .evergreen/ledger.json, together with the path and
the inode of the folder that it belongs to; a copied file is recognised and replaced.
"""

import getpass
import os
import platform
import uuid
from contextlib import suppress
from pathlib import Path

from tasks.common.checks import Frozen
from tasks.common.errors import refuse_newer
from tasks.common.files import locked, read_json, write_json
from tasks.common.paths import main_checkout, state_dir

SCHEMA = 1  # of ledger.json
LOCK_SECONDS = 60.0  # writing one small file takes milliseconds


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
    main = main_checkout(root).resolve()
    state = state_dir(root)
    file, inode = state / "ledger.json", main.stat().st_ino
    if (found := _known(file, main, inode)) is None:
        state.mkdir(parents=True, exist_ok=True)
        with locked(state / "ledger.lock", LOCK_SECONDS, f"the id of {main}"):
            if (found := _known(file, main, inode)) is None:
                found = uuid.uuid4().hex[:16]
                write_json(file, {"schema": SCHEMA, "checkout": found, "path": str(main), "inode": inode})
    return Owner(id=found, path=str(main), host=platform.node(), user=_user())


def _known(file: Path, main: Path, inode: int) -> str | None:
    """The id in `file`; None if there is none, or if it belongs to the folder that this one was copied from."""
    with suppress(FileNotFoundError, ValueError, KeyError, TypeError):
        about = read_json(file)
        refuse_newer(about.get("schema"), SCHEMA, str(file))
        moved = about["path"] != str(main) and not os.path.exists(about["path"])
        if about["inode"] == inode and (about["path"] == str(main) or moved) and isinstance(about["checkout"], str):
            return about["checkout"]
    return None


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # no name for the user id, as in some containers
        return str(os.getuid())
