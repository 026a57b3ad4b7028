"""One run over the same inputs at a time among machines that share a release store.

    leases/<input key>.json in the store    {run_id, holder, host, beat}: a run over these inputs lives
    .evergreen/holder                       names this checkout's state among all that share the store

On one machine flocks do this (`flows.repo.workspace`), and the kernel frees them. Of another machine nobody can see
whether a process lives: so a run changes its lease every BEAT seconds, and whoever waits takes over one that has not
changed for EXPIRES seconds of the waiter's own clock (Gray and Cheriton,
"Leases", SOSP 1989; two clocks are never compared).

A lease saves doubled work and promises nothing more. The fence is the pointer's compare-and-swap: a run that was
suspended, lost its lease and woke up cannot publish over what went live meanwhile without being judged against it.
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
from tasks.releases.store import Releases
from tasks.storage.blobs import Conflict

BEAT = 20.0  # seconds between two changes of a living run's lease
EXPIRES = 180.0  # a run beats from the end of its imports on: half a minute on a busy machine
POLL = 2.0
AWAY = (EvergreenError, OSError)  # what a store raises that cannot be reached or read
UNREADABLE = {"run_id": "?", "holder": "?", "host": "another machine", "beat": 0}


def take(releases: Releases, root: Path, key: str, run_id: str, say=print, expires: float = EXPIRES) -> None:
    """Hold the inputs `key` for run `run_id`: at once, or when another machine's run over them has ended or died.

    The caller holds `run_inputs.lock_inputs`, so a lease of this checkout is a dead run's and is taken over at once.
    expires: seconds (a test's). Raises EvergreenError after a day of waiting.
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
            except Conflict:  # another was faster, or it lives after all
                continue
            if found is not None and found["holder"] != mine["holder"]:
                say(f"run {found['run_id']} on {found['host']} has shown no life for {expires:g} s: going ahead")
            return
        if not told:
            say(f"run {found['run_id']} on {found['host']} is over these very inputs: waiting for its end")
            told = True
        if time.monotonic() > deadline:
            raise EvergreenError(
                f"run {found['run_id']} on {found['host']} has been over these very inputs for a day and is alive: "
                "look there for one that hangs, end it, and start again (`--force` goes ahead beside it)"
            )
        time.sleep(min(POLL, expires / 10))


@contextmanager
def kept(releases: Releases, key: str | None, run_id: str, beat: float = BEAT) -> Iterator[None]:
    """Renew the lease that `take` got for `run_id`, until the block ends; then give it back. Without one: nothing."""
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
    """Free the inputs `key` if `run_id` holds them still. Never an error: a lease that stays expires."""
    try:
        if _is_of(releases, key, run_id):
            releases.store.remove(_name(key))
    except AWAY as error:
        logging.getLogger(__name__).warning("the lease of these inputs could not be given back: %s", error)


def elsewhere(releases: Releases, root: Path) -> list[tuple[str, str, datetime]]:
    """(run, host, last sign of life by the store's clock) of every lease that another checkout holds. A dead run's
    stays until its inputs are run again: after a day, the longest that a run may take, it is left out."""
    file, found = state_dir(root) / "holder", []
    mine = file.read_text() if file.is_file() else None
    for name in releases.store.list("leases/"):
        with suppress(*AWAY):  # given back meanwhile
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
                log.warning("another run took these inputs over while this one showed no life; the gate decides")
                return
            releases.store.swap(name, _bytes(found | {"beat": found["beat"] + 1}), token)
        except (*AWAY, Conflict) as error:  # tried again at the next beat
            log.warning("the lease of these inputs could not be renewed: %s", error)


def _may_hold(releases: Releases, key: str, run_id: str) -> bool:
    try:
        return _is_of(releases, key, run_id)
    except AWAY:  # a store that is away for a moment must not cost the run; the next beat knows more
        return True


def _is_of(releases: Releases, key: str, run_id: str) -> bool:
    found, _ = _read(releases, _name(key))
    return found is not None and found["run_id"] == run_id


def _read(releases: Releases, name: str) -> tuple[dict | None, str | None]:
    if (found := releases.store.read(name)) is None:
        return None, None
    try:
        return {**UNREADABLE, **json.loads(found[0])}, found[1]
    except (ValueError, TypeError):  # whoever wrote it does not renew it: it expires
        return UNREADABLE, found[1]


def _holder(root: Path) -> str:
    file = state_dir(root) / "holder"
    if not file.is_file():  # where two make it at once, a lease under the lost name expires like a stranger's
        with atomic_path(file) as temporary:
            temporary.write_text(uuid.uuid4().hex)
    return file.read_text()


def _name(key: str) -> str:
    return f"leases/{key}.json"


def _bytes(lease: dict) -> bytes:
    return json.dumps(lease).encode()
