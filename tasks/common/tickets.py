"""One-time links into a project's own servers, for those who can read the checkout's files.

    .evergreen/tickets.json    {digest of a ticket: [what it opens, until when]}, readable by its owner only

An address stays in the browser's history and in lists of processes, so it never holds the checkout's secret. It holds a
ticket: a random word that opens one server, once, within minutes. Stored is only what the secret makes of it.
"""

import hmac
import secrets
import time
from pathlib import Path

from tasks.common.checkout import checkout
from tasks.common.files import locked, write_json
from tasks.common.paths import state_dir
from tasks.common.private import make_folder
from tasks.common.rebuildable import expect, expect_dict, read_rebuildable

SECONDS = 600  # in which a ticket can be used
LOCK_SECONDS = 20
MOST = 50  # tickets at a time; the oldest go first


def make_ticket(root: Path, opens: str) -> str:
    """A ticket that opens the server called `opens` once."""
    ticket = secrets.token_urlsafe(32)
    with _locked(root):
        known = _read(root) | {_digest(root, ticket): [opens, time.time() + SECONDS]}
        write_json(_file(root), dict(list(known.items())[-MOST:]))
    return ticket


def take_ticket(root: Path, opens: str, ticket: str) -> bool:
    """Whether `ticket` opens the server called `opens`; it never does again."""
    if not _file(root).is_file():
        return False
    with _locked(root):
        known = _read(root)
        found = known.pop(_digest(root, ticket), None)
        if found is None:
            return False
        write_json(_file(root), known)
    return found[0] == opens


def _read(root: Path) -> dict[str, list]:
    """The tickets that can still be used."""
    found = read_rebuildable(_file(root), _accept, "links that were printed open nothing: `evergreen open`") or {}
    now = time.time()
    return {digest: about for digest, about in found.items() if now < about[1] <= now + SECONDS}


def _accept(about: dict) -> dict[str, list]:
    for opens, until in expect_dict(about, list).values():
        expect(opens, str)
        expect(until, float)
    return about


def _digest(root: Path, ticket: str) -> str:
    text = f"ticket {ticket}".encode("utf-8", "surrogatepass")
    return hmac.digest(checkout(root).secret.encode(), text, "sha256").hex()


def _file(root: Path) -> Path:
    return state_dir(root) / "tickets.json"


def _locked(root: Path):
    make_folder(state_dir(root))
    return locked(state_dir(root) / "tickets.lock", LOCK_SECONDS, "the tickets of this checkout")
