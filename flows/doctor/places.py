"""Checks of where releases and data are stored: reachable, writable, safe with two writers."""

import uuid
from pathlib import Path

from flows.doctor.finding import Finding, ok, problem, warning
from flows.repo.ledger import BesideObjects
from flows.repo.pipeline import open_repo
from flows.repo.remotes import check_remotes, open_remote
from tasks.common.errors import EvergreenError
from tasks.common.params import Params
from tasks.common.plural import counted
from tasks.releases.store import open_store
from tasks.storage.blobs import Conflict, Store, without_secrets
from tasks.storage.ledgers import Files, StoreFiles, read_ledgers

RESTORE = "`evergreen verify` shows what is damaged; restore the store from a backup"


def store(root: Path, params: Params) -> list[Finding]:
    """Whether the release store answers, its history is whole, and it takes and refuses writes as it must."""
    releases, at = open_store(params.store, root), without_secrets(params.store.url)
    try:
        live, history = releases.live(), releases.history()
    except EvergreenError as error:
        return [problem("store", f"{at}: {error}", RESTORE)]
    said = f"{live.version} is live after {len(history)} promotions" if live else "nothing is live yet"
    return [ok("store", f"{at}: {said}"), _writes(releases.store, at), *_ledgers(StoreFiles(releases.store, at), at)]


def remote(root: Path) -> list[Finding]:
    """Whether DVC's default remote answers, and its ledgers can be read."""
    with open_repo(root) as repo:
        if not repo.config["core"].get("remote"):
            return [
                problem("remote", "DVC has no default remote", "`dvc remote add --default store PLACE`, and commit")
            ]
        check_remotes(repo)
        odb = open_remote(repo, None)
        files = BesideObjects(odb)
        files.list()
        found = [ok("remote", f"{files.place} answers"), *_ledgers(files, files.place)]
        return found + _ledgers(BesideObjects(repo.cache.local), str(repo.cache.local.path))


def _writes(store: Store, at: str) -> Finding:
    """Write, try to write over it as a second writer would, and delete."""
    key = f"doctor/{uuid.uuid4().hex}"
    try:
        store.create(key, b"one writer")
        try:
            store.create(key, b"another")
        except Conflict:
            return ok("store writes", f"{at} can be written, and refuses a second writer")
        return problem(
            "store writes",
            f"{at} let a second writer replace an object",
            "use a server with conditional writes, or store.single_writer: true with one machine that publishes",
        )
    finally:
        store.remove(key)


def _ledgers(files: Files, at: str) -> list[Finding]:
    """Whether the ledgers in one place can be read, and whose checkouts are gone."""
    try:
        ledgers = read_ledgers(files)
    except EvergreenError as error:
        return [problem("ledgers", str(error), "restore the file; until then `evergreen gc` deletes nothing there")]
    gone = [ledger.owner.path for ledger in ledgers.values() if ledger.gone]
    if gone:
        cure = "if they are gone for good, delete their folders of ledgers there; then gc may free what they kept"
        return [warning("ledgers", f"{at}: checkouts that are gone keep objects: {', '.join(sorted(gone)[:3])}", cure)]
    return [ok("ledgers", f"{at}: {counted(len(ledgers), 'checkout')} with objects there")]
