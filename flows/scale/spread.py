"""Spread a stream of items over the cluster of params.yaml; a few items stay on this machine."""

from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from typing import TypeVar

from flows.scale.fill import PER_CPU
from tasks.common.params import ScaleParams

BYTES_PER_CPU = 64 << 20

T, R = TypeVar("T"), TypeVar("R")


def spread(
    function: Callable[[T], R],
    items: Iterable[T],
    scale: ScaleParams,
    *,
    say: Callable[[str], object] = print,
    name: Callable[[T], str] = str,
) -> Iterator[R]:
    """Yield `function(item)` of each of `items`, in order, computed by the cluster. See `ray_map` for errors.

    Items in flight fill at most MOST_BYTES (flows.scale.map) of this machine's memory, or BYTES_PER_CPU for each CPU of
    a cluster of other machines if that is more.
    """
    from flows.scale import engine
    from flows.scale.map import ray_map

    cluster = engine.connect(scale)
    say(cluster.sentence())
    bytes_per_cpu = 0 if scale.address is None else BYTES_PER_CPU
    yield from ray_map(function, items, per_cpu=PER_CPU, bytes_per_cpu=bytes_per_cpu, say=say, name=name)


def after_few(
    few: int,
    items: Iterable[T],
    here: Callable[[Iterator[T]], Iterable[R]],
    there: Callable[[Iterator[T]], Iterable[R]],
) -> Iterator[R]:
    """What `here` yields for the first `few` of `items`, then what `there` yields for the rest, if there is a rest.

    Starting a cluster takes seconds, and the number of items is unknown before the last one is read.
    """
    items = iter(items)
    yield from here(islice(items, few))
    for first in items:
        yield from there(chain([first], items))
        return
