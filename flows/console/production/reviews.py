"""Measures error reviews beside the pages: reading a month of a large log takes seconds."""

import functools
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from monitoring.live.errors import Review

PATIENCE = 1.0  # seconds that a page waits for a review
FRESH = 20.0  # seconds for which a review is not measured again
KEPT = 40  # months


@dataclass
class Measured:
    """One month: its newest review, and the thread that measures it again."""

    review: Review | None = None
    error: Exception | None = None  # of the newest measurement
    at: float | None = None  # time.monotonic() of the review
    thread: threading.Thread | None = None


@dataclass
class Reviews:
    """The reviews of one project; every request shares them."""

    _known: dict[str, Measured] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def look(
        self, month: str, measure: Callable[[], Review | None], patience: float = PATIENCE
    ) -> tuple[Review | None, bool]:
        """(the newest review of a month, whether a newer one is being measured). Raises what `measure` raised."""
        with self._lock:
            known = self._known.pop(month, None) or Measured()
            self._known[month] = known
            while len(self._known) > KEPT:
                self._known.pop(next(iter(self._known)))
            fresh = known.at is not None and time.monotonic() - known.at < FRESH
            if not fresh and known.thread is None:
                known.thread = threading.Thread(target=self._measure, args=(known, measure), daemon=True)
                known.thread.start()
            thread = known.thread
        if thread is not None:
            thread.join(patience)
        with self._lock:
            if known.thread is None and known.error is not None:
                raise known.error
            return known.review, known.thread is not None

    def _measure(self, known: Measured, measure: Callable[[], Review | None]) -> None:
        review, error = None, None
        try:
            review = measure()
        except Exception as raised:  # `look` raises it
            error = raised
        with self._lock:
            known.review, known.error = review, error
            known.at, known.thread = time.monotonic(), None


@functools.cache
def reviews_of(root: Path) -> Reviews:
    """The reviews of the project at `root`."""
    return Reviews()
