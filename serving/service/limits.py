"""How much the service takes on at once, so that overload costs memory and time for nobody.

Only the event loop calls this, so it needs no lock.
"""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

from serving.service.problems import Problem
from serving.service.settings import Settings

LONGEST_RETRY = 60  # seconds
MEMORY = 0.1  # share that the newest second has in the measured speed


class Admission:
    """Counts the images and bytes of requests that are being answered. Raises Problem where there are too many."""

    def __init__(self, settings: Settings):
        self.settings = settings
        self.images = self.bytes = 0
        self.parsing = 0  # bytes that JSON takes while it is read: in `bytes`, one client would keep all others out
        self._speed = 0.0  # images a second, of late
        self._done, self._since = 0, time.monotonic()

    @contextmanager
    def body(self, size: int) -> Iterator[None]:
        """Room for a request's body of at most `size` bytes, until the block ends."""
        if self.bytes + size > self.settings.queue_bytes and self.bytes:
            raise self._full(f"requests of {self.bytes:,} bytes wait, {self.settings.queue_bytes:,} is the limit")
        if self.images >= self.settings.queue:  # refuse before the body is read
            raise self._full(f"{self.images} images wait, {self.settings.queue} is the limit")
        self.bytes += size
        try:
            yield
        finally:
            self.bytes -= size

    @contextmanager
    def parsed(self, size: int) -> Iterator[None]:
        """Room for what a body that has room already becomes in memory: about `size` bytes, until the block ends."""
        if size > self.settings.queue_bytes:
            limit = f"{self.settings.queue_bytes:,} is the limit: send images encoded, in base64"
            raise Problem("body_too_large", f"the JSON holds so many values that they may take {size:,} bytes, {limit}")
        if self.parsing + size > self.settings.queue_bytes:
            raise self._full(f"JSON that takes {self.parsing:,} bytes is read, and {size:,} are needed for this one")
        self.parsing += size
        try:
            yield
        finally:
            self.parsing -= size

    @contextmanager
    def room(self, images: int) -> Iterator[None]:
        """Room for `images`, until the block ends."""
        if self.images + images > self.settings.queue:
            raise self._full(f"{self.images} images wait, {self.settings.queue} is the limit and {images} came")
        self.images += images
        try:
            yield
        finally:
            self.images -= images
            self._measure(images)

    def retry_after(self) -> int:
        """Seconds until about half of what waits is answered."""
        seconds = self.images / 2 / self._speed if self._speed else 1.0
        return min(LONGEST_RETRY, max(1, math.ceil(seconds)))

    def _full(self, why: str) -> Problem:
        seconds = self.retry_after()
        return Problem("queue_full", f"{why}: send it again in {seconds} s", {"retry-after": str(seconds)})

    def _measure(self, images: int) -> None:
        self._done += images
        now = time.monotonic()
        if (passed := now - self._since) >= 1:
            speed = self._done / passed
            self._speed = MEMORY * speed + (1 - MEMORY) * self._speed if self._speed else speed
            self._done, self._since = 0, now
