"""Ctrl-C of a run: its process hears it once, from the terminal, from its parent, or from both."""

import math
import signal
import time

SAME = 5.0  # seconds within which two interrupts are one, on a loaded machine too


def merge_interrupts() -> None:
    """Raise KeyboardInterrupt once for the interrupts of SAME seconds: a second one would break off the clean end.

    A terminal interrupts this process and its parent, which passes it on: `kill -INT` reaches the parent alone. If
    interrupts are ignored, as in the background of a shell script, they stay so.
    """
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        return
    last = -math.inf

    def heard(number: int, frame: object) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last > SAME:
            last = now
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, heard)
