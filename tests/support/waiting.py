"""Wait for another process to do something."""

import time
from collections.abc import Callable


def until(what: Callable[[], object], seconds: float = 180, why: str = ""):
    """The first true value of `what()`; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, why or f"not within {seconds} s"
        time.sleep(0.1)
    return found
