"""The release store: the live version, its history, bundles, runs and tombstones.

    champion.json              the pointer; its compare-and-swap is the one commit point of a promotion
    pointers/<seq>.json        every pointer in order: what was live when
    bundles/, objects/         the bundles (tasks.releases.bundle_store)
    runs/<run id>.json         how each run ended
    runs/<run id>/report.html  its release report (flows.release_report.page)
    leases/<input key>.json    a run over these inputs is alive, on some machine (flows.runs.lease)
    ledgers/<checkout>/        the bundles' objects that each checkout needs (tasks.storage.ledgers)
    tombstones.json            batches that are never trained on again
    lifted.json                tombstones that a person took back: whose they were, who lifted them, why
    retired.json               versions whose bytes may be gone; written before gc removes any
    pauses.json                when nothing automatic may happen (tasks.releases.pause)
    rollout.json, rollouts/    a challenger that answers part of the traffic (tasks.releases.rollout)

A pointer is recorded under pointers/ right after it goes live. If the process is killed in between, `record` does it
at the next start, and always before another pointer replaces this one. So the history has no gaps.
"""

import copy
import json
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from tasks.common.errors import EvergreenError, refuse_newer
from tasks.common.failpoints import failpoint
from tasks.common.owner import owner_of
from tasks.common.params import StoreParams
from tasks.common.paths import cache_dir
from tasks.releases import bundle_store
from tasks.releases.bundle_store import StoreDamaged
from tasks.releases.pointer import REPAIR, Pointer, broken_link, decode, encode
from tasks.storage.blobs import Conflict, Store, without_secrets
from tasks.storage.ledgers import StoreFiles, claim
from tasks.storage.places import open_blobs

LIVE = "champion.json"
TOMBSTONES = "tombstones.json"
LIFTED = "lifted.json"
RETIRED = "retired.json"
RUN_SCHEMA = 2  # of runs/<run id>.json; 1 has neither comments nor previews, and may not say it
RESTORE = "Restore the store from a backup."
SWAPS = 200  # tries of an update under contention; each lost try means that another writer succeeded


class PointerMoved(EvergreenError):
    """Another promotion came first. `current` is live now: judge the challenger against it and try again."""

    def __init__(self, current: Pointer | None):
        self.current = current
        found = f"{current.version} (promotion {current.seq}, run {current.run_id})" if current else "nothing"
        super().__init__(
            f"another run published first: {found} is now live. This run's model must be judged against that before "
            "it can be published; start the run again if that does not happen by itself."
        )


def open_store(store: StoreParams, root: Path) -> "Releases":
    """The release store of params.yaml; a relative folder lies in the main checkout of `root`."""
    blobs = open_blobs(store.url, root, store=store)
    return Releases(blobs, Owned(StoreFiles(blobs, without_secrets(store.url)), root))


@dataclass(frozen=True)
class Owned:
    """The ledgers in a release store, and a worktree of the checkout that uses it."""

    files: StoreFiles
    root: Path


class Releases:
    """Everything stored about releases, in one `Store`. owned: None for a reader, which stores no bundles."""

    def __init__(self, store: Store, owned: Owned | None = None):
        self.store, self.owned = store, owned

    # the pointer and its history

    def live(self) -> Pointer | None:
        """The live pointer; None before the first promotion.

        Raises StoreDamaged unless it is what was written: as its digest says, as its record says and, without a
        record, as the successor of the newest recorded one.
        """
        return self._live()[0]

    def _live(self) -> tuple[Pointer | None, str | None]:
        """(the live pointer, token for its replacement); see `live`."""
        live, token = self._pointer(LIVE)
        if live is None and (newest := max(self.store.list("pointers/"), default=None)) is not None:
            live, token = self._pointer(LIVE)  # another writer may have promoted its first in between
            if live is None:
                raise StoreDamaged(f"{LIVE} is missing in the release store, but {newest} is there: copy it to {LIVE}")
        if live is None:
            return None, token
        recorded = self.promoted(live.seq)
        if recorded is None and live.seq > 1:  # a kill can prevent the newest record, and no other
            before = self.promoted(live.seq - 1)
            broken = broken_link(before, live) if before else f"{_record_key(live.seq - 1)} is missing"
            if broken:
                raise StoreDamaged(f"{LIVE} in the release store does not continue pointers/: {broken}. {REPAIR}")
        if recorded not in (None, live):
            names = [name for name in Pointer.model_fields if getattr(recorded, name) != getattr(live, name)]
            raise StoreDamaged(
                f"{LIVE} and {_record_key(live.seq)} in the release store differ in {', '.join(names)}: one of them "
                "was altered. `evergreen verify` says which versions are whole; copy the right one over the other"
            )
        return live, token

    def promoted(self, seq: int) -> Pointer | None:
        """The recorded pointer of promotion number `seq`; None if there is none."""
        return self._pointer(_record_key(seq))[0]

    def history(self) -> list[Pointer]:
        """Every promotion, oldest first. Each was live from its `at` until the next one's.

        Raises StoreDamaged where a pointer is not the one that its successor replaced.
        """
        live = self.live()
        pointers = [pointer for key in self.store.list("pointers/") if (pointer := self._pointer(key)[0])]
        for before, after in pairwise(pointers):
            if after.seq == before.seq + 1 and (broken := broken_link(before, after)):
                raise StoreDamaged(f"pointers/ in the release store were altered: {broken}. {RESTORE}")
        if live is not None and (not pointers or pointers[-1].seq < live.seq):
            pointers.append(live)  # it went live, but a kill prevented its record
        return pointers

    def promote(self, pointer: Pointer) -> Pointer:
        """Make `pointer` live if its predecessor is still live; raises PointerMoved otherwise.

        If an error leaves it open whether the swap happened (a lost reply), the store is read back: a promotion that
        took effect is a success.
        """
        current, token = self._live()
        if self._took_effect(pointer):
            return pointer
        if broken_link(current, pointer) if current else pointer.seq != 1:
            raise PointerMoved(current)
        if current is not None:
            self.record(current)
        if self.promoted(pointer.seq) is not None and self.live() == current:
            raise StoreDamaged(
                f"{LIVE} says promotion {pointer.seq - 1} is live, but {_record_key(pointer.seq)} already exists: "
                f"{LIVE} was replaced by an old one. Copy the newest file of pointers/ over it."
            )
        try:
            self.store.swap(LIVE, encode(pointer), token)
        except Exception as error:
            if not self._took_effect(pointer):
                if isinstance(error, Conflict):
                    raise PointerMoved(self.live()) from None
                raise
        failpoint("store.swapped")
        self.record(pointer)
        return pointer

    def record(self, pointer: Pointer) -> bool:
        """Write `pointer`, which went live, into the history; False if it was recorded before."""
        if self.promoted(pointer.seq) == pointer:
            return False
        try:
            self.store.create(_record_key(pointer.seq), encode(pointer))
        except Conflict:
            raise StoreDamaged(
                f"{_record_key(pointer.seq)} differs from the pointer that went live as number {pointer.seq} "
                f"({pointer.version}, run {pointer.run_id}): two stores were mixed or a file was edited. Restore the "
                "store from a backup."
            ) from None
        return True

    def _took_effect(self, pointer: Pointer) -> bool:
        """Whether `pointer` is live or was live earlier."""
        live = self.live()
        return pointer in (live, self.promoted(pointer.seq) if live and live.seq > pointer.seq else None)

    def _pointer(self, key: str) -> tuple[Pointer | None, str | None]:
        if (found := self.store.read(key)) is None:
            return None, None
        return decode(found[0], key), found[1]

    # bundles

    def put_bundle(self, folder: Path) -> str:
        """Upload the bundle in `folder`, its manifest last; returns its digest. Repeating this changes nothing.

        Its objects are claimed first, so that no other checkout's gc deletes them.
        """
        if self.owned is not None:
            claim(self.owned.files, owner_of(self.owned.root), bundle_store.keys(folder))
        return bundle_store.put(self.store, folder)

    def audit_bundle(self, digest: str) -> None:
        """Read bundle `digest` back and hash it. Raises StoreDamaged naming everything missing or damaged."""
        bundle_store.audit(self.store, digest)

    def get_bundle(self, digest: str, dest: Path) -> Path:
        """Restore bundle `digest` as folder `dest`, hash-checked, completely or not at all. Raises StoreDamaged."""
        return bundle_store.get(self.store, digest, dest)

    def provisional(self, digest: str) -> str | None:
        """Why the model in bundle `digest` is provisional; None if it is not, or if its bundle.json is gone."""
        found = bundle_store.read_file(self.store, digest, "bundle.json")
        return json.loads(found).get("provisional") if found else None

    # runs and tombstones

    def put_run(self, run_id: str, record: dict[str, Any]) -> None:
        """Store the record of run `run_id` (JSON values), replacing an older one."""
        self.update(f"runs/{run_id}.json", lambda _: {"schema": RUN_SCHEMA} | record)

    def change_run(self, run_id: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
        """Replace the record of run `run_id` by what `change` makes of it; no change by another writer is lost.

        `change` may be called again, and after a lost reply it is given what it made: it must then return the same.
        Raises EvergreenError for a run without a record.
        """

        def changed(found: Any) -> dict[str, Any]:
            if not isinstance(found, dict):
                raise EvergreenError(f"no run {run_id!r} is recorded in the release store")
            schema = found.pop("schema", None)
            refuse_newer(schema, RUN_SCHEMA, f"runs/{run_id}.json in the release store")
            return {"schema": RUN_SCHEMA} | change(found)

        return {name: value for name, value in self.update(f"runs/{run_id}.json", changed).items() if name != "schema"}

    def runs(self, part: str = "") -> dict[str, dict[str, Any]]:
        """Run id -> record of the ids that contain `part`, in the order of run ids, which begin with the time."""
        keys = [key for key in self.store.list("runs/") if key.endswith(".json") and part in key]
        return {key[len("runs/") : -len(".json")]: self._load_run(key) for key in keys}

    def run(self, run_id: str) -> dict[str, Any] | None:
        """The record of run `run_id`; None if there is none."""
        return self._load_run(f"runs/{run_id}.json")

    def _load_run(self, key: str) -> dict[str, Any] | None:
        record = self._load(key)[0]
        if isinstance(record, dict):
            refuse_newer(record.pop("schema", None), RUN_SCHEMA, f"{key} in the release store")
        return record

    def tombstones(self) -> dict[str, dict[str, str]]:
        """Batch id -> {why, at, by} of every batch that must not be trained on."""
        return self._load(TOMBSTONES)[0] or {}

    def tombstone(self, batch: str, why: str, by: str, settings: str | None = None) -> None:
        """Never train on `batch` again. The first reason given stays, unless it holds for other settings only.

        settings: the key of those under which a run refused the batch (flows.repo.tombstones); None: by a person.
        """
        entry = {"why": why, "at": datetime.now(UTC).isoformat(timespec="seconds"), "by": by}
        entry |= {"settings": settings} if settings else {}

        def add(known: dict | None) -> dict:
            before = (known or {}).get(batch)
            stays = before is not None and before.get("settings") in (None, settings)
            return {**(known or {}), batch: before if stays else entry}

        self.update(TOMBSTONES, add)

    def untombstone(self, batch: str, why: str, by: str) -> None:
        """Allow `batch` again and record it in LIFTED first; nothing happens if it is not tombstoned."""
        if (stone := self.tombstones().get(batch)) is None:
            return
        lifted = stone | {"lifted": {"why": why, "at": datetime.now(UTC).isoformat(timespec="seconds"), "by": by}}

        def add(known: dict | None) -> dict:
            before = (known or {}).get(batch, [])  # a call that was killed here may have added it already
            return {**(known or {}), batch: [one for one in before if one | stone != one] + [lifted]}

        self.update(LIFTED, add)
        self.update(TOMBSTONES, lambda known: {k: v for k, v in (known or {}).items() if k != batch})

    def lifted(self) -> dict[str, list[dict[str, Any]]]:
        """Batch id -> its former tombstones, each with who `lifted` it, when and why, the oldest first."""
        return self._load(LIFTED)[0] or {}

    def retired(self) -> dict[str, dict[str, str]]:
        """Version -> {why, at, by} of every version that can no longer be restored: its tag and pointers stay."""
        return self._load(RETIRED)[0] or {}

    def retire(self, version: str, why: str, by: str) -> None:
        """Mark `version` as retired, so that gc may remove its bytes. The first reason given stays."""
        entry = {"why": why, "at": datetime.now(UTC).isoformat(timespec="seconds"), "by": by}
        self.update(RETIRED, lambda known: {version: entry} | (known or {}))

    def sweep(self) -> int:
        """Remove what killed writers left unfinished; the number of things removed."""
        return self.store.sweep()

    def _load(self, key: str) -> tuple[Any, str | None]:
        if (found := self.store.read(key)) is None:
            return None, None
        try:
            return json.loads(found[0]), found[1]
        except ValueError as error:
            raise StoreDamaged(f"{key} in the release store is not JSON ({error}): restore it from a backup") from None

    def update(self, key: str, change: Callable[[Any], Any]) -> Any:
        """Read, change and compare-and-swap until it succeeds, so that concurrent writers lose nothing.

        Returns the new value.
        """
        for _ in range(SWAPS):
            before, token = self._load(key)
            if (after := change(copy.deepcopy(before))) == before:
                return after
            try:
                self.store.swap(key, _json(after), token)
                return after
            except Conflict:
                time.sleep(random.uniform(0, 0.02))
        raise EvergreenError(f"{key} in the release store changed {SWAPS} times during an update: try again")


def cached_bundle(releases: Releases, digest: str, root: Path) -> Path:
    """The folder of bundle `digest` in the cache of the project at `root`, restored from the store if needed.

    Cached files are hashed again, and a damaged bundle is replaced. Raises StoreDamaged.
    """
    return releases.get_bundle(digest, cache_dir("bundles", root) / digest)


def _record_key(seq: int) -> str:
    return f"pointers/{seq:08d}.json"


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n").encode()
