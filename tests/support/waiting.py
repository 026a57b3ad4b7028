"""Wait for another process to do something."""

import time
from collections.abc import Callable

LONGEST = 0.3  # seconds between two looks: each may ask a server, which has work to do meanwhile


def until(what: Callable[[], object], seconds: float = 180, why: str = ""):
    """The first true value of `what()`; fails after `seconds`."""
    deadline, pause = time.monotonic() + seconds, 0.02
    while not (found := what()):
        assert time.monotonic() < deadline, why or f"not within {seconds} s"
        time.sleep(pause)
        pause = min(pause * 1.3, LONGEST)
    return found
