"""Run a function over untrusted inputs in child processes that may die without harm.

Image decoders are C code that reads files from strangers: a file can make one crash, use up all memory or loop. Each
child has a limit on its address space and on the CPU time of one item. When a child dies, the items in flight are
retried one by one, so that only the item that killed it is lost. Results come in input order. Only a few chunks are in
flight at a time, so the input may be far larger than memory.
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

from tasks.common.orphans import end_with_parent

if TYPE_CHECKING:  # loky is imported when the first child is needed
    from loky import ProcessPoolExecutor

R = TypeVar("R")

CHUNK_ITEMS, CHUNK_BYTES = 64, 2 << 20  # per message to a child: amortises its cost, bounds what is in flight
IDLE_SECONDS = 30  # children wait this long for more work before they exit
GRACE_SECONDS = 3.0  # how long children may finish their chunk when their parent is interrupted
DEATHS = 2  # of an item's own process until it counts as the cause: a process can die for reasons of the machine's
ITEM_SECONDS = 60.0  # CPU time; the largest allowed image decodes in a few seconds
CHILD_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",  # each thread reserves address space
    "OPENBLAS_NUM_THREADS": "1",
    # otherwise glibc keeps the memory of a large image, and the next large one exceeds the limit
    "MALLOC_MMAP_THRESHOLD_": str(8 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(32 << 20),
}


@dataclass(frozen=True)
class Crashed:
    """Replaces the result of an item whose process died, or ran out of memory or time."""

    detail: str


def sandboxed_map(
    function: Callable[[bytes], R], items: Iterable[bytes], *, workers: int, memory: int, seconds: float = ITEM_SECONDS
) -> Iterator[R | Crashed]:
    """Yield `function(item)` for each of `items`, in order, from child processes; a lost item yields Crashed.

    `function` is a module's top-level function. `workers` below 1 counts from the number of cores (-1: one per core).
    `memory` is how many bytes an item may add to a child's address space. An exception of `function` is raised here.
    """
    from loky import cpu_count

    workers = workers if workers > 0 else max(1, cpu_count() + 1 + workers)
    chunks = _chunks(items)
    waiting = deque(islice(chunks, 2 * workers))
    if not waiting:
        return
    pools = _Pools(min(workers, len(waiting)), memory, function.__module__)
    in_flight: deque[tuple[Sequence[bytes], Future]] = deque()
    try:
        while waiting or in_flight:
            while waiting:
                chunk = waiting.popleft()
                in_flight.append((chunk, pools.submit(function, chunk, seconds)))
            try:
                results = in_flight[0][1].result()
            except BrokenProcessPool:  # all chunks in flight are lost, not only the one with the culprit
                suspects = list(in_flight)
                in_flight.clear()
                for chunk, future in suspects:
                    yield from _retry_singly(pools, function, chunk, future, seconds)
            else:
                in_flight.popleft()
                yield from results
            waiting.extend(islice(chunks, 2 * workers - len(in_flight)))
    except KeyboardInterrupt:
        pools.stop([future for _, future in in_flight])
        raise
    finally:
        for _, future in in_flight:
            future.cancel()


def _retry_singly(
    pools: _Pools, function: Callable, chunk: Sequence[bytes], future: Future, seconds: float
) -> Iterator:
    """Results of a chunk that was in flight when a child died: those that arrived, else a retry per item."""
    if future.done() and not future.cancelled() and future.exception() is None:
        yield from future.result()
        return
    for item in chunk:
        for _ in range(DEATHS):
            try:
                (result,) = pools.submit(function, [item], seconds).result()
                break
            except BrokenProcessPool:
                result = Crashed("the decoding process died")
        yield result


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
    """Pools of at least `workers` children with `memory` to spare, for functions of one module.

    A pool outlives a call of sandboxed_map and is replaced when it breaks.
    """

    _alive: dict[tuple[int, int, str], ProcessPoolExecutor] = {}

    def __init__(self, workers: int, memory: int, module: str):
        fitting = (key for key in self._alive if key[0] >= workers and key[1:] == (memory, module))
        self._key = min(fitting, default=(workers, memory, module))

    def submit(self, function: Callable, chunk: Sequence[bytes], seconds: float) -> Future:
        from loky import ProcessPoolExecutor  # not joblib's copy, which imports numpy in each process

        while True:
            pool = self._alive.get(self._key)
            if pool is None:
                workers, memory, _ = self._key
                pool = self._alive[self._key] = ProcessPoolExecutor(
                    workers,
                    timeout=IDLE_SECONDS,
                    initializer=_start_child,
                    initargs=(os.getpid(), memory, function),
                    env=CHILD_ENVIRONMENT,
                )
            try:
                with _sigint_blocked():
                    return pool.submit(_run_chunk, function, chunk, seconds)
            except BrokenProcessPool:
                self._alive.pop(self._key, None)

    def stop(self, in_flight: list[Future]) -> None:
        """Kill the children, after waiting GRACE_SECONDS for answers: a child that has answered no longer writes."""
        if pool := self._alive.pop(self._key, None):
            wait(in_flight, GRACE_SECONDS)
            pool.shutdown(kill_workers=True)


@contextmanager
def _sigint_blocked() -> Iterator[None]:
    """Block SIGINT in this thread, so that children started meanwhile never receive Ctrl-C; their parent does.

    A terminal sends Ctrl-C to all processes. A child interrupted during an import would print a traceback. A child
    interrupted while it sends a large answer would leave its parent waiting forever.
    """
    resource_tracker.ensure_running()  # otherwise loky starts it here, and Python 3.11's tracker unblocks SIGINT
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_child(parent: int, memory: int, function: Callable) -> None:
    """In a child: end with `parent`; allow `memory` bytes of address space beyond what the process already uses.

    `function` is an argument so that unpickling it imports its module first, which then counts as used.
    """
    end_with_parent(parent)
    try:
        import resource

        with open("/proc/self/statm") as file:
            used = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except (ImportError, OSError):  # this system has no such limit: only the pixel cap bounds memory
        return
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = used + memory if hard == resource.RLIM_INFINITY else min(used + memory, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def _run_chunk(function: Callable[[bytes], Any], chunk: Sequence[bytes], seconds: float) -> list:
    """In a child: one result per item. After `seconds` of CPU time the kernel ends the process (SIGPROF)."""
    results = []
    for item in chunk:
        signal.setitimer(signal.ITIMER_PROF, seconds)
        try:
            results.append(function(item))
        except MemoryError:
            results.append(Crashed("the image needs more memory than a decoding process may use"))
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
    return results
