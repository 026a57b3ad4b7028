"""How much each client may send, over all processes of the service.

The processes share one small file, mapped into memory, with a lock of the kernel: a killed process holds nothing, and a
restart forgets nothing. Each client and limit is a token bucket, stored as the one time at which it is full again (the
"generic cell rate algorithm" of ITU-T I.371).
"""

import fcntl
import hashlib
import mmap
import os
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path

from tasks.common.private import open_private

SLOT = struct.Struct("<16sd")  # sha256 of the name, begun; seconds since 1970 at which the bucket is full again
SLOTS = 4096
PROBES = 32  # places that a name may be at; the one that is full first gives way


class Rates:
    """Buckets in `file`, opened by each process itself. Threads may share it."""

    def __init__(self, file: Path, now: Callable[[], float] = time.time):
        self._now, self._lock = now, threading.Lock()
        self._handle = open_private(file, os.O_RDWR | os.O_CREAT)
        os.ftruncate(self._handle, SLOTS * SLOT.size)
        self._map = mmap.mmap(self._handle, SLOTS * SLOT.size)

    def take(self, name: str, amount: int, most: int, seconds: float) -> float:
        """0.0 if `amount` may be taken from the bucket of `name` now, which it then is; else seconds to wait.

        A bucket holds `most` and fills up in `seconds`. An amount over `most` is never there: it waits for a full one.
        """
        key = hashlib.sha256(name.encode()).digest()[:16]
        with self._lock:
            fcntl.flock(self._handle, fcntl.LOCK_EX)
            try:
                return self._take(key, amount / most * seconds, seconds)
            finally:
                fcntl.flock(self._handle, fcntl.LOCK_UN)

    def close(self) -> None:
        """Let go of the file."""
        self._map.close()
        os.close(self._handle)

    def _take(self, key: bytes, cost: float, seconds: float) -> float:
        now = self._now()
        place, full_at = self._find(key, now)
        full_at = min(full_at, now + seconds)  # the clock was set back, or the limit was changed
        after = max(full_at, now) + cost
        if (wait := after - now - seconds) > 1e-9:
            return wait
        SLOT.pack_into(self._map, place, key, after)
        return 0.0

    def _find(self, key: bytes, now: float) -> tuple[int, float]:
        """(place of the bucket, when it is full again)."""
        start = int.from_bytes(key[:4], "little")
        best, best_at = 0, float("inf")
        for step in range(PROBES):
            place = (start + step) % SLOTS * SLOT.size
            owner, full_at = SLOT.unpack_from(self._map, place)
            if owner == key:
                return place, full_at
            if full_at < best_at:
                best, best_at = place, full_at
        return best, now
