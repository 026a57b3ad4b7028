"""End a worker process when its parent has ended: a parent that is killed cannot tell its workers.

The kernel's own signal for this (PR_SET_PDEATHSIG) comes when the *thread* that started the worker ends, which is early
in a pool that starts workers from a thread.
"""

import functools
import os
import select
import threading
import time

POLL_SECONDS = 1.0  # where the system has no descriptors of processes


@functools.cache
def end_with_parent(parent: int) -> None:
    """Watch the process `parent`, which started this one, from a thread; calls after the first do nothing.

    The caller says who the parent is: this process may start when that one is gone already. In `parent` itself, where
    a pool of one worker runs its work, nothing is done.

    Returns once the thread waits: the memory that it reserves counts as used for limits that are set afterwards.
    """
    if os.getpid() == parent:
        return
    waits = threading.Event()
    threading.Thread(target=_watch, args=(parent, waits), daemon=True).start()
    waits.wait()


def _watch(parent: int, waits: threading.Event) -> None:
    try:
        handle = os.pidfd_open(parent)
    except (AttributeError, OSError):  # no Linux, or an old one; or the parent is gone
        handle = None
    polled = select.poll()
    if handle is not None:
        polled.register(handle, select.POLLIN)
    waits.set()
    if handle is not None and os.getppid() == parent:
        polled.poll()
    while os.getppid() == parent:
        time.sleep(POLL_SECONDS)
    os._exit(1)
