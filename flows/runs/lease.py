"""Leases: of all machines that share a release store, only one runs the same inputs at a time.

    leases/<input key>.json in the store    {run_id, holder, host, beat}: a run over these inputs is alive
    .evergreen/holder                       the name of this checkout among all that share the store

On one machine file locks do this (`flows.repo.workspace`), and the kernel frees them when a process dies. A process on
another machine cannot be watched. So a run rewrites its lease every BEAT seconds. A waiting run takes over a lease that
has not changed for EXPIRES seconds of the waiter's own clock; two clocks are never compared (Gray and Cheriton,
"Leases", SOSP 1989).

The lease only avoids duplicate work. Safety comes from the compare-and-swap on champion.json: a run that was suspended,
lost its lease and woke up is judged against whatever went live meanwhile before it can publish.
"""

import json
import logging
import platform
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from flows.repo.run_inputs import RUN_SECONDS
from tasks.common.errors import EvergreenError
from tasks.common.files import atomic_path
from tasks.common.paths import state_dir
from tasks.common.rebuildable import expect, read_rebuildable
from tasks.releases.store import Releases
from tasks.storage.blobs import Conflict

BEAT = 20.0  # seconds between two renewals of a lease
EXPIRES = 180.0  # seconds; the first renewal follows the imports, which take half a minute on a busy machine
POLL = 2.0  # seconds
AWAY = (EvergreenError, OSError)  # raised by a store that cannot be reached or read
UNREADABLE = {"run_id": "?", "holder": "?", "host": "another machine", "beat": 0}


def take(releases: Releases, root: Path, key: str, run_id: str, say=print, expires: float = EXPIRES) -> None:
    """Take the lease on the inputs `key` for run `run_id`, after another machine's run over them has ended or died.

    The caller holds `run_inputs.lock_inputs`, so a lease of this same checkout belongs to a dead run: take it over at
    once. expires: seconds; tests shorten it. Raises EvergreenError after a day of waiting.
    """
    name, mine = _name(key), {"run_id": run_id, "holder": _holder(root), "host": platform.node(), "beat": 0}
    deadline, token, since, told = time.monotonic() + RUN_SECONDS, None, time.monotonic(), False
    while True:
        found, current = _read(releases, name)
        if current != token:
            token, since = current, time.monotonic()
        expired = time.monotonic() - since > expires
        if found is None or found["holder"] == mine["holder"] or expired:
            try:
                releases.store.swap(name, _bytes(mine), current)
            except Conflict:  # another machine was faster, or the run is alive after all
                continue
            if found is not None and found["holder"] != mine["holder"]:
                say(f"run {found['run_id']} on {found['host']} gave no sign of life for {expires:g} s: going ahead")
            return
        if not told:
            say(f"run {found['run_id']} on {found['host']} uses the same inputs: waiting for it to end")
            told = True
        if time.monotonic() > deadline:
            raise EvergreenError(
                f"run {found['run_id']} on {found['host']} has used the same inputs for a day and is still alive: look "
                "there whether it hangs, end it, and start again (`--force` starts without waiting)"
            )
        time.sleep(min(POLL, expires / 10))


@contextmanager
def renewed(releases: Releases, key: str | None, run_id: str, beat: float = BEAT) -> Iterator[None]:
    """Renew the lease of `run_id` during the block, then give it back. Without a lease, do nothing."""
    if key is None or not _may_hold(releases, key, run_id):
        yield
        return
    ended = threading.Event()
    thread = threading.Thread(target=_beat, args=(releases, key, run_id, beat, ended), name="lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        give_back(releases, key, run_id)


def give_back(releases: Releases, key: str, run_id: str) -> None:
    """Remove the lease on `key` if `run_id` still holds it. Never raises: a lease that stays expires."""
    try:
        if _is_of(releases, key, run_id):
            releases.store.remove(_name(key))
    except AWAY as error:
        logging.getLogger(__name__).warning("the lease on these inputs could not be given back: %s", error)


def elsewhere(releases: Releases, root: Path) -> list[tuple[str, str, datetime]]:
    """List the leases of other checkouts: (run, host, last sign of life by the store's clock).

    The lease of a dead run stays until its inputs are run again. This list leaves it out after RUN_SECONDS, a day.
    """
    mine, found = _known_holder(root), []
    for name in releases.store.list("leases/"):
        with suppress(*AWAY):  # it was given back meanwhile
            about, _ = _read(releases, name)
            at = releases.store.about(name)[1]
            if about and about["holder"] != mine and (datetime.now(UTC) - at).total_seconds() < RUN_SECONDS:
                found.append((str(about["run_id"]), str(about["host"]), at))
    return found


def _beat(releases: Releases, key: str, run_id: str, beat: float, ended: threading.Event) -> None:
    log, name = logging.getLogger(__name__), _name(key)
    while not ended.wait(beat):
        try:
            found, token = _read(releases, name)
            if found is None or found["run_id"] != run_id:
                log.warning("another run took over these inputs while this run was silent; the gate will decide")
                return
            releases.store.swap(name, _bytes(found | {"beat": found["beat"] + 1}), token)
        except (*AWAY, Conflict) as error:  # the next beat tries again
            log.warning("the lease on these inputs could not be renewed: %s", error)


def _may_hold(releases: Releases, key: str, run_id: str) -> bool:
    try:
        return _is_of(releases, key, run_id)
    except AWAY:  # a store that is unreachable for a moment must not cost the run; the next beat reads it again
        return True


def _is_of(releases: Releases, key: str, run_id: str) -> bool:
    found, _ = _read(releases, _name(key))
    return found is not None and found["run_id"] == run_id


def _read(releases: Releases, name: str) -> tuple[dict | None, str | None]:
    if (found := releases.store.read(name)) is None:
        return None, None
    try:
        lease = {**UNREADABLE, **json.loads(found[0])}
        return {name: expect(lease[name], type(UNREADABLE[name])) for name in UNREADABLE}, found[1]
    except (ValueError, TypeError, RecursionError):  # its writer does not renew it, so it expires
        return UNREADABLE, found[1]


def _holder(root: Path) -> str:
    """This checkout's name, made if it has none: if two processes race here, a lease under the lost name expires."""
    if (known := _known_holder(root)) is None:
        known = uuid.uuid4().hex
        with atomic_path(state_dir(root) / "holder") as temporary:
            temporary.write_text(known)
    return known


def _known_holder(root: Path) -> str | None:
    """This checkout's name; None if it has none, or its file is damaged: leases under the lost name expire."""
    file = state_dir(root) / "holder"
    return read_rebuildable(file, lambda text: uuid.UUID(text).hex, "its leases expire", parse=bytes.decode)


def _name(key: str) -> str:
    return f"leases/{key}.json"


def _bytes(lease: dict) -> bytes:
    return json.dumps(lease).encode()
