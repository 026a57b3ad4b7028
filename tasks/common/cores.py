"""How many cores this process may use, and work that keeps them all busy."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

P = TypeVar("P")
R = TypeVar("R")
MOST = 8  # threads: what each holds in memory adds up


def usable_cores() -> int:
    """The number of cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def on_all_cores(work: Callable[[P], R], parts: Iterable[P], most: int = MOST) -> Iterator[R]:
    """Yield `work(part)` of each part, in order, with a thread for each usable core, `most` at most.

    For work that mostly runs without the interpreter's lock, as NumPy's and Pillow's does. Meanwhile BLAS has one
    thread: its own would spin while they wait. So results depend on `parts` alone, not on the number of cores. One
    result more than there are threads is held in memory.
    """
    from threadpoolctl import threadpool_limits

    threads = min(usable_cores(), most)
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(threads) as pool:
        waiting: deque = deque()
        for part in parts:
            waiting.append(pool.submit(work, part))
            if len(waiting) > threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
