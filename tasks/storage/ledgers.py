"""Ledgers: which checkout needs which objects of a shared cache, remote or release store.

    <checkout>/<sha256>.json    names of objects that a checkout references or has stored; all its files together are
                                its ledger
    <checkout>/gc.json          this checkout deletes objects right now

A checkout writes the names of its objects into its ledger before it stores them or relies on them. `evergreen gc`
deletes an object only if its own ledger names it and no other does. Objects that no ledger names belong to a user
without one (plain DVC, an older Evergreen), who may need the others too: where such objects exist, gc deletes nothing.

A writer could find an object present that gc is about to delete. So gc announces itself first and reads the ledgers
after that; a writer adds to its ledger first and then waits for every announced gc to end. Whichever comes second sees
the other. This needs no lock, so it works on every store that shows a finished write at once, S3 included.

An announcement is renewed while gc works. A waiter ignores one whose process has died on this machine, or that has not
changed for STALE seconds of the waiter's own clock. gc deletes nothing once its last renewal is older than TIRED.
"""

import json
import os
import platform
import time
import uuid
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from tasks.common.errors import EvergreenError, refuse_newer
from tasks.common.failpoints import failpoint
from tasks.common.files import sha256_bytes
from tasks.common.owner import Owner
from tasks.storage.blobs import Store

SCHEMA = 1
GC = "gc.json"
MERGE_FILES = 16  # a ledger of more files is merged into one when it grows
RENEW = 20.0  # seconds between two renewals of an announcement
TIRED = 90.0  # seconds
STALE = 180.0  # seconds
WAIT = 3600.0  # seconds that a writer waits for a gc: it reads every root, and may delete much
POLL = 0.2  # seconds


class Files(Protocol):
    """The small files of all ledgers in one place, named "<checkout>/<file>"."""

    place: str  # for messages

    def list(self) -> list[str]:
        """All names."""

    def read(self, name: str) -> bytes | None:
        """The content of a file; None if it is absent."""

    def write(self, name: str, content: bytes) -> None:
        """Write a file whole, or not at all."""

    def remove(self, name: str) -> None:
        """Remove a file. Removing an absent one is fine."""


class StoreFiles:
    """Ledgers under the prefix ledgers/ of a `Store`."""

    def __init__(self, store: Store, place: str):
        self.store, self.place = store, place

    def list(self) -> list[str]:
        return [key.removeprefix("ledgers/") for key in self.store.list("ledgers/")]

    def read(self, name: str) -> bytes | None:
        found = self.store.read(f"ledgers/{name}")
        return found and found[0]

    def write(self, name: str, content: bytes) -> None:
        found = self.store.read(f"ledgers/{name}")
        self.store.swap(f"ledgers/{name}", content, found and found[1])

    def remove(self, name: str) -> None:
        self.store.remove(f"ledgers/{name}")


@dataclass
class Ledger:
    """What one checkout needs in one place."""

    owner: Owner
    names: set[str] = field(default_factory=set)
    files: list[str] = field(default_factory=list)

    @property
    def gone(self) -> bool:
        """Was it a checkout of this machine whose folder does not exist any more?"""
        return self.owner.host == platform.node() and not os.path.exists(self.owner.path)


def read_ledgers(files: Files) -> dict[str, Ledger]:
    """Id of a checkout -> its ledger. Raises EvergreenError if one cannot be read completely."""
    while True:
        found: dict[str, Ledger] = {}
        for name in sorted(files.list()):
            checkout, _, file = name.partition("/")
            if file == GC:
                continue
            if (content := files.read(name)) is None:
                break  # its writer has merged it into another file since the listing
            owner, names = _parse(files, name, content)
            ledger = found.setdefault(checkout, Ledger(owner))
            ledger.owner = owner
            ledger.names |= names
            ledger.files.append(name)
        else:
            return found


def claim(
    files: Files, owner: Owner, names: Collection[str], wait: float = WAIT, pause: Callable[[float], None] = time.sleep
) -> None:
    """Add `names` to the ledger of `owner`, then wait until no gc is at work: call this before storing the objects.

    Raises EvergreenError if a gc is still at work after `wait` seconds.
    """
    wanted, deadline, seen = set(names), time.monotonic() + wait, {}
    while wanted:
        own = _own(files, owner)
        if missing := wanted - own.names:
            if len(own.files) >= MERGE_FILES:
                _write(files, owner, own.names | missing)
                _remove(files, own.files)
            else:
                _write(files, owner, missing)
            failpoint("ledgers.claimed")
        waited = False
        while (working := _working(files, seen)) is not None:
            waited = True
            if time.monotonic() > deadline:
                raise EvergreenError(
                    f"{working} has been deleting from {files.place} for {wait:g} s: look there whether `evergreen gc` "
                    "hangs, end it, and start again"
                )
            pause(POLL)
        if not waited:
            return  # otherwise that gc may have been this checkout's own, and may have dropped names


class Collecting:
    """A gc at work in one place: see `collecting`."""

    def __init__(self, files: Files, owner: Owner):
        self.files, self.owner = files, owner
        self._announce()
        try:
            self._refuse_others()
            self.ledgers = read_ledgers(files)
        except BaseException:
            self.end()
            raise

    def keep_alive(self) -> None:
        """Renew the announcement where it is due: call this before each deletion. Raises EvergreenError if too late."""
        since = time.monotonic() - self._renewed
        if since > TIRED or (since > RENEW and self.files.read(f"{self.owner.id}/{GC}") is None):
            raise EvergreenError(
                f"gc stood still for {since:.0f} s, so others may rely on {self.files.place} again: start it again"
            )
        if since > RENEW:
            self._announce()

    def replace(self, names: Collection[str]) -> None:
        """Make `names` the ledger of this checkout, except what it has claimed since this gc began."""
        own = self.ledgers.get(self.owner.id)
        if own is not None and own.names == set(names) and len(own.files) == 1:
            return
        written = _write(self.files, self.owner, names)
        failpoint("ledgers.replaced")
        _remove(self.files, [name for name in (own.files if own else ()) if name != written])

    def take_over(self, checkout: str, names: Collection[str]) -> None:
        """Make `names` this checkout's ledger, then remove that of another `checkout`."""
        self.replace(names)
        _remove(self.files, [name for name in self.files.list() if name.startswith(f"{checkout}/")])

    def _announce(self) -> None:
        about = {"by": str(self.owner), "at": datetime.now(UTC).isoformat(), "process": _this_process()}
        self.files.write(f"{self.owner.id}/{GC}", json.dumps(about | {"mark": uuid.uuid4().hex}).encode())
        self._renewed = time.monotonic()

    def _refuse_others(self) -> None:
        if (other := _working(self.files, {}, besides=self.owner.id)) is not None:
            raise EvergreenError(
                f"{other} deletes from {self.files.place} at this moment: nothing was removed, try again when it has "
                "ended"
            )

    def end(self) -> None:
        """Let writers go on."""
        self.files.remove(f"{self.owner.id}/{GC}")


@contextmanager
def collecting(files: Files, owner: Owner) -> Iterator[Collecting]:
    """Announce a gc during the block. Raises EvergreenError, with nothing changed, if another one is at work."""
    found = Collecting(files, owner)
    try:
        yield found
    finally:
        found.end()


def _own(files: Files, owner: Owner) -> Ledger:
    while True:
        found = Ledger(owner)
        for name in files.list():
            if name.startswith(f"{owner.id}/") and not name.endswith(f"/{GC}"):
                if (content := files.read(name)) is None:
                    break
                found.names |= _parse(files, name, content)[1]
                found.files.append(name)
        else:
            return found


def _write(files: Files, owner: Owner, names: Collection[str]) -> str:
    about = {"schema": SCHEMA, **owner.model_dump(exclude={"id"}), "at": datetime.now(UTC).isoformat()}
    content = json.dumps(about | {"names": sorted(names)}).encode()
    name = f"{owner.id}/{sha256_bytes(content)}.json"
    files.write(name, content)
    return name


def _remove(files: Files, names: Collection[str]) -> None:
    for name in names:
        files.remove(name)


def _parse(files: Files, name: str, content: bytes) -> tuple[Owner, set[str]]:
    checkout, _, file = name.partition("/")
    try:
        if f"{sha256_bytes(content)}.json" != file:
            raise ValueError("its name is not the sha256 of its content")
        about = json.loads(content)
        refuse_newer(about["schema"], SCHEMA, f"{name} in {files.place}")
        owner = Owner(id=checkout, path=about["path"], host=about["host"], user=about["user"])
        return owner, set(about["names"])
    except (ValueError, KeyError, TypeError) as error:
        raise EvergreenError(
            f"the ledger file {name} in {files.place} cannot be read ({error}), so what checkout {checkout} needs "
            "there is unknown: nothing was removed. Restore the file from a backup; if that checkout is gone for good, "
            f"delete the folder {checkout} of ledgers there"
        ) from None


def _working(files: Files, seen: dict[str, tuple[bytes, float]], besides: str = "") -> str | None:
    """Who runs gc in this place, or None. `seen`: announcements of earlier calls, and since when they are unchanged."""
    for name in files.list():
        if not name.endswith(f"/{GC}") or name == f"{besides}/{GC}" or (content := files.read(name)) is None:
            continue
        if seen.get(name, (b"",))[0] != content:
            seen[name] = content, time.monotonic()
        if is_stale(content, time.monotonic() - seen[name][1]):
            files.remove(name)
            continue
        return _announced_by(content)
    return None


def is_stale(announcement: bytes, unchanged: float) -> bool:
    """Did the process of this announcement die? unchanged: seconds since it was last seen to change."""
    try:
        process = json.loads(announcement).get("process", {})
    except ValueError:
        return unchanged > STALE
    here = _this_process()
    if {**process, "pid": 0} == {**here, "pid": 0}:  # the same machine, since the same start, in the same container
        return not Path(f"/proc/{process['pid']}").exists() if "boot" in process else unchanged > STALE
    return unchanged > STALE


def _announced_by(content: bytes) -> str:
    try:
        return f"`evergreen gc` of {json.loads(content)['by']}"
    except (ValueError, KeyError, TypeError):
        return "a gc"


def _this_process() -> dict[str, object]:
    """This process, for others to see whether it lives; without "boot" only its silence tells."""
    about: dict[str, object] = {"host": platform.node(), "pid": os.getpid()}
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return about | {"boot": boot, "space": os.readlink("/proc/self/ns/pid")}
    except OSError:
        return about
