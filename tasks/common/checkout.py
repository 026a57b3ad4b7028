"""Who this checkout is: an id and a secret that a copy or a clone of the project does not share.

The id names the project in everything that Prefect remembers: deployments, automations, events. The secret signs in at
the project's own Prefect server. Both lie in .evergreen/checkout.json, which only its owner can read and git does not
track, next to the folder that they belong to. Worktrees of runs use those of the main checkout.
"""

import secrets
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tasks.common.files import locked, write_json
from tasks.common.paths import main_checkout, state_dir
from tasks.common.private import file_mode, make_folder
from tasks.common.rebuildable import expect, read_rebuildable

SCHEMA = 1
USER = "evergreen"  # of sign-ins at the Prefect server
LOCK_SECONDS = 20


@dataclass(frozen=True)
class Checkout:
    """One checkout of a project on this machine."""

    id: str
    secret: str = field(repr=False)

    @property
    def auth(self) -> str:
        """What the project's clients send to its Prefect server: "user:password"."""
        return f"{USER}:{self.secret}"


def known_checkout(root: Path) -> Checkout | None:
    """The checkout at `root`; None if it has no id yet, or only that of the folder it was copied from."""
    about = _read(_file(root))
    place = _place(root)
    if about is None or not _same_folder(about, place):
        return None
    return Checkout(about["id"], about["secret"])


def checkout(root: Path) -> Checkout:
    """The checkout at `root`, with an id and a secret from now on."""
    if (known := known_checkout(root)) and _private(_file(root)):
        return known
    with _locked(root):
        known = known_checkout(root)
        if known and _private(_file(root)):
            return known
        # others could read the file: keep the id, which is not secret
        return _write(root, known.id if known else secrets.token_hex(8))


def renew_secret(root: Path) -> Checkout:
    """Give the checkout another secret: what the last server's address may have leaked since is worth nothing then."""
    own = checkout(root)
    with _locked(root):
        return _write(root, own.id)


def _file(root: Path) -> Path:
    return state_dir(root) / "checkout.json"


def _locked(root: Path):
    make_folder(state_dir(root))
    return locked(_file(root).with_suffix(".lock"), LOCK_SECONDS, "the id of this checkout")


def _write(root: Path, id_: str) -> Checkout:
    made = Checkout(id_, secrets.token_urlsafe(32))
    about = {"schema": SCHEMA, "id": made.id, "secret": made.secret, **_place(root)}
    write_json(_file(root), about)
    return made


def _read(file: Path) -> dict[str, Any] | None:
    """The file's content; None if it is absent or not what `_write` wrote: a new one costs a sign-in, no more."""
    return read_rebuildable(file, _accept, "this checkout gets a new id and secret")


def _accept(about: Any) -> dict[str, Any]:
    if not all(expect(about[name], str) for name in ("id", "secret", "path")) or about["schema"] != SCHEMA:
        raise ValueError("an entry is empty, or its schema is unknown")
    return about


def _place(root: Path) -> dict[str, Any]:
    folder = main_checkout(root).resolve()
    status = folder.stat()
    return {"path": str(folder), "device": status.st_dev, "inode": status.st_ino}


def _same_folder(about: dict[str, Any], place: dict[str, Any]) -> bool:
    """Whether `about` was written in the folder `place`.

    A copy has another inode on the same disk. A moved folder keeps it; a restart of the machine may only renumber the
    disk.
    """
    return about.get("inode") == place["inode"] and (
        about.get("device") == place["device"] or about["path"] == place["path"]
    )


def _private(file: Path) -> bool:
    return not stat.S_IMODE(file.stat().st_mode) & ~file_mode(file.parent)
