"""Run a function over untrusted inputs in child processes that may die without harm.

Image decoders are C code fed by strangers: a file can make one crash, eat all memory or spin. Each child gets
a limit on its address space and on the CPU time of one item; when a child dies, the items that were in flight
are run again one by one, so that exactly the culprit is lost. Results come in input order and only a few chunks
are under way at a time, so the input may be far larger than memory.
"""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, wait
from concurrent.futures.process import BrokenProcessPool  # of which loky's is a subclass
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from multiprocessing import resource_tracker
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:  # loky is imported when the first child is needed
    from loky import ProcessPoolExecutor

R = TypeVar("R")

CHUNK_ITEMS, CHUNK_BYTES = 64, 2 << 20  # one message to a child: amortises its cost, bounds what is in flight
IDLE_SECONDS = 30  # children wait this long for more work before they go
PATIENCE = 3.0  # seconds that children have for what they are at when their parent is interrupted
ITEM_SECONDS = 60.0  # CPU time; the largest allowed image decodes in a few
CHILD_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",  # each thread reserves address space
    "OPENBLAS_NUM_THREADS": "1",
    # glibc would learn to keep what a large image took, and the next large one would not find room beside it
    "MALLOC_MMAP_THRESHOLD_": str(8 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(32 << 20),
}


@dataclass(frozen=True)
class Crashed:
    """Stands in the place of an item's result: its process died, or ran out of memory or time."""

    detail: str


def bounded_map(
    function: Callable[[bytes], R], items: Iterable[bytes], *, workers: int, memory: int, seconds: float = ITEM_SECONDS
) -> Iterator[R | Crashed]:
    """`function(item)` for each of `items`, in order, from child processes.

    `function` is a module's top-level function. `workers` below 1 are counted from the cores (-1: one per core).
    `memory` is what an item may add to a child's address space, bytes. An exception of `function` is raised here.
    """
    from loky import cpu_count

    workers = workers if workers > 0 else max(1, cpu_count() + 1 + workers)
    chunks = _chunks(items)
    waiting = deque(islice(chunks, 2 * workers))
    if not waiting:
        return
    pools = _Pools(min(workers, len(waiting)), memory, function.__module__)
    flying: deque[tuple[Sequence[bytes], Future]] = deque()
    try:
        while waiting or flying:
            while waiting:
                chunk = waiting.popleft()
                flying.append((chunk, pools.submit(function, chunk, seconds)))
            try:
                results = flying[0][1].result()
            except BrokenProcessPool:  # it takes everything in flight with it, guilty or not
                suspects = list(flying)
                flying.clear()
                for chunk, future in suspects:
                    yield from _again(pools, function, chunk, future, seconds)
            else:
                flying.popleft()
                yield from results
            waiting.extend(islice(chunks, 2 * workers - len(flying)))
    except KeyboardInterrupt:
        pools.end([future for _, future in flying])
        raise
    finally:
        for _, future in flying:
            future.cancel()


def _again(pools: _Pools, function: Callable, chunk: Sequence[bytes], future: Future, seconds: float) -> Iterator:
    """The results of a chunk that was in flight when a child died: what has arrived, else item by item."""
    if future.done() and not future.cancelled() and future.exception() is None:
        yield from future.result()
        return
    for item in chunk:
        try:
            yield from pools.submit(function, [item], seconds).result()
        except BrokenProcessPool:
            yield Crashed("the decoding process died")


def _chunks(items: Iterable[bytes]) -> Iterator[list[bytes]]:
    chunk, size = [], 0
    for item in items:
        if chunk and (len(chunk) == CHUNK_ITEMS or size + len(item) > CHUNK_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(item)
        size += len(item)
    if chunk:
        yield chunk


class _Pools:
    """At least `workers` children with `memory` to spare for functions of one module: pools outlive a call, and are
    replaced when they break."""

    _alive: dict[tuple[int, int, str], ProcessPoolExecutor] = {}

    def __init__(self, workers: int, memory: int, module: str):
        fitting = (key for key in self._alive if key[0] >= workers and key[1:] == (memory, module))
        self._key = min(fitting, default=(workers, memory, module))

    def submit(self, function: Callable, chunk: Sequence[bytes], seconds: float) -> Future:
        from loky import ProcessPoolExecutor  # joblib's own copy brings numpy into each of its processes

        while True:
            pool = self._alive.get(self._key)
            if pool is None:
                workers, memory, _ = self._key
                pool = self._alive[self._key] = ProcessPoolExecutor(
                    workers,
                    timeout=IDLE_SECONDS,
                    initializer=_limit_memory,
                    initargs=(memory, function),
                    env=CHILD_ENVIRONMENT,
                )
            try:
                with _deaf_to_ctrl_c():
                    return pool.submit(_run, function, chunk, seconds)
            except BrokenProcessPool:
                self._alive.pop(self._key, None)

    def end(self, flying: list[Future]) -> None:
        """End the children soon, whatever they are at. Who has answered writes no more, and so can be killed."""
        if pool := self._alive.pop(self._key, None):
            wait(flying, PATIENCE)
            pool.shutdown(kill_workers=True)


@contextmanager
def _deaf_to_ctrl_c() -> Iterator[None]:
    """Processes that start meanwhile never hear the Ctrl-C that a terminal sends to all. It would meet them in the
    midst of an import, and each would print a traceback; or of a large answer, for whose end their parent would wait
    for ever. Their parent hears it."""
    resource_tracker.ensure_running()  # loky does so before its first child, and Python 3.11's then unblocks SIGINT
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _limit_memory(memory: int, function: Callable) -> None:
    """In a child: allow `memory` bytes of address space beyond what the interpreter already takes, with the modules
    that `function` brought as it was unpickled."""
    try:
        import resource

        with open("/proc/self/statm") as file:
            used = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except (ImportError, OSError):  # no such limits on this system: the pixel cap is the bound
        return
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = used + memory if hard == resource.RLIM_INFINITY else min(used + memory, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def _run(function: Callable[[bytes], Any], chunk: Sequence[bytes], seconds: float) -> list:
    """In a child: one result per item. Past `seconds` of CPU time the kernel ends the process (SIGPROF)."""
    results = []
    for item in chunk:
        signal.setitimer(signal.ITIMER_PROF, seconds)
        try:
            results.append(function(item))
        except MemoryError:
            results.append(Crashed("out of the memory a decoding process may take"))
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
    return results
