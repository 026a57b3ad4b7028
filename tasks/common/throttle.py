"""Slow down people who guess passwords: after five failures in a minute, none is compared."""

import threading
import time
from collections import deque

FAILURES, SECONDS = 5, 60.0  # for each name and each address
MOST = 10_000  # keys that are remembered: a flood of names takes no more memory


class Throttle:
    """Failures of the last minute by key, of one process."""

    def __init__(self, failures: int = FAILURES, seconds: float = SECONDS):
        self.failures, self.seconds = failures, seconds
        self._lock = threading.Lock()
        self._found: dict[str, deque[float]] = {}

    def begin(self, *keys: str) -> int:
        """Seconds to wait until these keys may try again; 0: one try is under way, and counts as failed until then.

        It counts at once, so that many tries at the same time are not all let through.
        """
        now = time.monotonic()
        with self._lock:
            waits = [
                recent[0] + self.seconds - now for key in keys if len(recent := self._recent(key, now)) >= self.failures
            ]
            if waits:
                return max(1, round(max(waits) + 0.5))
            for key in keys:
                self._found.setdefault(key, deque()).append(now)
            while len(self._found) > MOST:
                self._found.pop(next(iter(self._found)))
        return 0

    def succeeded(self, *keys: str) -> None:
        """The try that began last was right: it does not count."""
        with self._lock:
            for key in keys:
                if found := self._found.get(key):
                    found.pop()
                    if not found:
                        del self._found[key]

    def _recent(self, key: str, now: float) -> deque[float]:
        found = self._found.get(key, deque())
        while found and found[0] <= now - self.seconds:
            found.popleft()
        return found
