"""How many cores this process may use, and work that keeps them all busy."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.pool import ThreadPool
from typing import TypeVar

P = TypeVar("P")
R = TypeVar("R")
MOST = 8  # threads: what each holds in memory adds up


def usable_cores() -> int:
    """The number of cores that this process may use: of its affinity, and of the quota of its container."""
    from loky import cpu_count

    return cpu_count()


def on_all_cores(work: Callable[[P], R], parts: Iterable[P], most: int = MOST) -> Iterator[R]:
    """Yield `work(part)` of each part, in order, with a thread for each usable core, `most` at most.

    For work that mostly runs without the interpreter's lock, as NumPy's and Pillow's does. Meanwhile every BLAS that
    is loaded has one thread: its own would spin while they wait. So results depend on `parts` alone, not on the number
    of cores; import what brings a BLAS before. One result more than there are threads is held in memory. An error and
    Ctrl-C end the wait at once: parts at work go on in the background, but do not keep the process.
    """
    from threadpoolctl import threadpool_limits

    threads = min(usable_cores(), most)
    with threadpool_limits(1, "blas"), ThreadPool(threads) as pool:  # its threads are daemons
        waiting: deque = deque()
        for part in parts:
            waiting.append(pool.apply_async(work, (part,)))
            if len(waiting) > threads:
                yield waiting.popleft().get()
        while waiting:
            yield waiting.popleft().get()
