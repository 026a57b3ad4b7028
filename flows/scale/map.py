"""`ray_map` applies a function to many items on a Ray cluster: in order, in bounded memory.

The caller has connected this process (flows.scale.engine). The driver holds each item until its result has been
yielded, so an item is worked on again if its worker, its node or the whole cluster is lost. An error that the function
raises is different: it is raised here, once.
"""

import re
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from flows.scale import engine
from flows.scale.engine import ClusterLost
from tasks.common.errors import EvergreenError

T, R = TypeVar("T"), TypeVar("R")

RETRIES = 3  # of an item whose worker died, and of a connection lost before any result: what causes it must end
LOOK = 2.0  # seconds between two looks at whether the cluster still answers, and how many CPUs it has
FIRST = 16  # items in flight on a cluster without a CPU: what waits makes an autoscaler add nodes
TELL = 60.0  # seconds without a result, a multiple of LOOK, after each of which that is said
RECONNECT_SECONDS = 60.0  # for a head that restarts
MOST_BYTES = 256 << 20  # of items in flight
ANSI = re.compile(r"\x1b\[[0-9;]*m")  # Ray colours the tracebacks of workers
DETAILS = re.compile(r'details = "([^"]+)"')  # what happened, in the errors of Ray's client


@dataclass(eq=False)
class _Flight:
    """An item on its way."""

    item: Any
    weight: int
    ref: Any = None
    deaths: int = 0
    done: bool = False
    result: Any = field(default=None, repr=False)


def ray_map(
    function: Callable[[T], R],
    items: Iterable[T],
    *,
    in_flight: int = 1,
    per_cpu: int = 0,
    say: Callable[[str], object] = print,
    name: Callable[[T], str] = str,
    most_bytes: int = MOST_BYTES,
    bytes_per_cpu: int = 0,
    cpus: float = 1,
    gpus: float = 0,
) -> Iterator[R]:
    """Yield `function(item)` of each of `items`, in order, computed by the cluster's workers.

    At most `in_flight` items, of `most_bytes` together, are on their way or waiting to be yielded; `items` is read only
    so far ahead. With `per_cpu` and `bytes_per_cpu` both limits rise to that for each CPU of the cluster, also while it
    grows. `name(item)` names an item in messages. Each call may use `cpus` cores and `gpus` GPUs of its node.
    Raises the error of the function, with the item's name as a note; EvergreenError for an item whose worker died
    RETRIES times more; ClusterLost where the cluster does not come back, or is lost RETRIES times more without a result
    in between. In all cases, and with Ctrl-C, what is in flight ends, and the connection with it.
    """
    room = _Room(max(1, in_flight), most_bytes, per_cpu, bytes_per_cpu)
    run = _Run(function, room, say, name, {"num_cpus": cpus, "num_gpus": gpus})
    try:
        yield from run.results(iter(items))
    finally:
        run.end()


@dataclass
class _Room:
    """How much may be in flight."""

    items: int
    bytes: int
    items_per_cpu: int
    bytes_per_cpu: int

    def grow(self, cpus: int) -> None:
        """Make room for a cluster of `cpus`. What is in flight stays when a cluster shrinks."""
        if self.items_per_cpu:
            self.items = max(self.items, self.items_per_cpu * cpus or FIRST)
        self.bytes = max(self.bytes, self.bytes_per_cpu * cpus)


class _Run:
    """The state of one `ray_map`."""

    def __init__(self, function, room: _Room, say, name, needs: dict[str, float]):
        self.function, self.room, self.say, self.name, self.needs = function, room, say, name, needs
        self.flights: deque[_Flight] = deque()
        self.quiet = 0.0  # seconds since the last result
        self.lost = 0  # connections since the last result
        self._prepare()

    def _prepare(self) -> None:
        """Make the function known to the cluster, once per connection."""
        import ray

        self._look()  # raises ClusterLost before `ray.put` would start a cluster of its own
        self.remote = ray.remote(max_retries=0, **self.needs)(_call)
        with _losses():
            self.stored = ray.put(self.function)

    def results(self, items: Iterator) -> Iterator:
        """Yield the results in order."""
        while True:
            try:
                self._fill(items)
                if not self.flights:
                    return
                if not self.flights[0].done:
                    self._wait()
                    continue
            except ClusterLost as lost:
                self._recover(lost)
                continue
            yield self.flights.popleft().result

    def _fill(self, items: Iterator) -> None:
        while len(self.flights) < self.room.items and sum(one.weight for one in self.flights) < self.room.bytes:
            try:
                item = next(items)
            except StopIteration:
                return
            flight = _Flight(item, weight(item))
            self.flights.append(flight)
            self._submit(flight)

    def _submit(self, flight: _Flight) -> None:
        with _losses():
            flight.ref = self.remote.remote(self.stored, flight.item)

    def _wait(self) -> None:
        """Wait a little for results; raises what a function raised, and ClusterLost."""
        import ray

        with _losses():
            waiting = {one.ref: one for one in self.flights if not one.done}  # hashing asks Ray's client
            ready, _ = ray.wait(list(waiting), num_returns=1, timeout=LOOK)
        for ref in ready:
            self._take(waiting[ref])
        if not ready or time.monotonic() - self.looked >= LOOK:
            self._look()
        if ready:
            self.quiet = 0.0
            return
        self.quiet += LOOK
        if self.quiet % TELL == 0:
            with _losses():
                free, cpus = ray.available_resources().get("CPU", 0), engine.cluster().cpus
            first = self.name(next(iter(waiting.values())).item)
            self.say(f"ray: no result for {self.quiet:g} s ({free:g} of {cpus:g} CPUs are free): waiting for {first}")

    def _look(self) -> None:
        """See whether the cluster is there, and whether it has grown. Raises ClusterLost."""
        engine.check_alive()
        with _losses():
            self.room.grow(int(engine.cluster().cpus))
        self.looked = time.monotonic()

    def _take(self, flight: _Flight) -> None:
        import ray
        from ray.exceptions import RayTaskError

        try:
            with _losses():
                flight.result = ray.get(flight.ref)
            flight.done, flight.ref = True, None
            self.lost = 0
        except RayTaskError as error:
            raise _own(error, self.name(flight.item)) from None
        except died() as error:
            flight.deaths += 1
            if flight.deaths > RETRIES:
                raise EvergreenError(
                    f"the Ray worker of {self.name(flight.item)} died {flight.deaths} times "
                    f"({type(error).__name__}): look for too little memory on the node (`ray status`), or for an "
                    "image that crashes the decoder"
                ) from error
            self.say(f"ray: a worker died: {self.name(flight.item)} is done again ({flight.deaths} of {RETRIES})")
            self._submit(flight)

    def _recover(self, lost: ClusterLost) -> None:
        """Connect again and submit again what was not finished. Raises ClusterLost."""
        self.lost += 1
        if self.lost > RETRIES:
            raise ClusterLost(
                f"the Ray cluster was lost {self.lost} times without a result in between, the last time because {lost} "
                "Look at its head and its workers (`ray status`), then start the command again"
            ) from lost
        self.say(f"ray: {lost} Trying for {RECONNECT_SECONDS:g} s to connect again")
        for one in self.flights:
            one.ref = None  # before the connection ends: a reference that outlives it warns
        self.stored = None
        engine.reconnect(RECONNECT_SECONDS)
        try:
            self._prepare()
            for one in self.flights:
                if not one.done:
                    self._submit(one)
        except ClusterLost as again:
            self._recover(again)

    def end(self) -> None:
        """End what is in flight with the connection, which kills its workers; the next call of `connect` opens another.

        Not by `ray.cancel`: Ray 2.60 aborts this process if a task that was cancelled is answered all the same ("Tried
        to complete task that was not pending").
        """
        unfinished = any(one.ref is not None for one in self.flights)
        self.flights.clear()
        if unfinished:
            engine.disconnect()


def _call(function: Callable[[T], R], item: T) -> R:
    """What a worker runs."""
    return function(item)


def died() -> tuple[type[Exception], ...]:
    """Ray's errors that say that a worker, its node or its result is gone, and not what the function did."""
    from ray import exceptions

    return (
        exceptions.WorkerCrashedError,
        exceptions.NodeDiedError,
        exceptions.ObjectLostError,
        exceptions.OutOfMemoryError,
        exceptions.LocalRayletDiedError,
    )


@contextmanager
def _losses() -> Iterator[None]:
    """Turn errors of the connection itself into ClusterLost, and not those of a task, which may be of the same type."""
    from grpc import RpcError  # what Ray's client lets through
    from ray.exceptions import RaySystemError, RayTaskError

    try:
        yield
    except RayTaskError:
        raise
    except (ConnectionError, RaySystemError, RpcError) as error:
        raise ClusterLost(f"the connection to the Ray cluster was lost: {_first_line(error)}.") from error


def _own(error: Exception, name: str) -> BaseException:
    """The error that the function raised, with the item's name; Ray wraps it."""
    from ray.exceptions import RaySystemError

    cause = error.cause
    if isinstance(cause, RaySystemError):  # the worker could not unpickle the function or the item
        cause = cause.client_exc
    if isinstance(cause, ImportError):
        return EvergreenError(
            f"a Ray worker cannot import what it needs ({cause}): install what requirements.lock says in the image of "
            "the cluster"
        )
    if not isinstance(cause, Exception):
        cause = error
    cause.add_note(f"on a Ray worker, for {name}:\n{ANSI.sub('', str(error))}")
    return cause


def weight(item: Any) -> int:
    """Bytes that `item` holds, about; 0 for what is small."""
    if isinstance(item, bytes | bytearray | str):
        return len(item)
    if (size := getattr(item, "nbytes", None)) is not None:
        return int(size)
    if isinstance(item, dict):
        return sum(map(weight, item.values()))
    if isinstance(item, list | tuple):
        return sum(map(weight, item))
    return 0


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return found[1] if (found := DETAILS.search(text)) else text.splitlines()[0]
