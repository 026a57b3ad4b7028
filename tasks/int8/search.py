"""Choose which parts of a network stay in float, by what each costs in int8.

A part is a run of neighbouring nodes with about as many weighted ones as every other part. The loss is the mean
divergence (nats an image) of the int8 model's probabilities from the float model's on calibration images: it needs no
label, and moves long before an answer does. A pure search over a function that measures; a table can test it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tasks.common.errors import EvergreenError

PARTS = 12  # each costs a model and a pass over the images
TINY = 1e-9


@dataclass(frozen=True)
class Choice:
    """The parts that stay in float (numbers, most sensitive first), the loss then, and of each part alone."""

    in_float: list[int]
    loss: float
    alone: list[float]


def parts(nodes: Sequence[tuple[str, bool]], most: int = PARTS) -> list[list[str]]:
    """`nodes`, (name, has weights) in order, as at most `most` runs of names; each begins at a node with weights."""
    starts = [place for place, (_, weighted) in enumerate(nodes) if weighted]
    if not starts:
        return []
    chosen = [int(group[0]) for group in np.array_split(starts, min(most, len(starts)))]
    ends = [*chosen[1:], len(nodes)]
    return [[name for name, _ in nodes[start:end]] for start, end in zip(chosen, ends, strict=True)]


def divergence(expected: np.ndarray, found: np.ndarray, task: str) -> float:
    """Mean divergence of probabilities `found` from `expected`, both (N, K), in nats an image; NaN is infinite."""
    p, q = (np.clip(values.astype(np.float64), TINY, 1 - TINY) for values in (expected, found))
    per_class = p * np.log(p / q)
    if task == "multilabel":
        per_class += (1 - p) * np.log((1 - p) / (1 - q))
    value = float(per_class.sum(axis=1).mean())
    return value if np.isfinite(value) else np.inf


def choose(number: int, loss_of: Callable[[list[int]], float], bound: float) -> Choice:
    """The fewest of `number` parts in float with which the loss is at most `bound`, the most sensitive ones first.

    loss_of: the parts in int8 -> loss. Raises EvergreenError if not even one part fits in int8.
    """
    every = list(range(number))
    loss = loss_of(every)
    if loss <= bound:
        return Choice([], loss, [])
    alone = [loss_of([part]) for part in every]
    order = sorted(every, key=lambda part: -alone[part])
    if min(alone) > bound:
        raise EvergreenError(
            f"every part of this network would have to stay in float to keep the divergence within {bound:g} nats: "
            f"allow more with --most-lost (single parts lose {min(alone):.3g} to {max(alone):.3g})"
        )
    low, high, found = 1, number - 1, {number - 1: min(alone)}
    while low < high:  # more parts in float lose less, so a search by halves finds the fewest
        middle = (low + high) // 2
        found[middle] = loss_of(sorted(order[middle:]))
        low, high = (low, middle) if found[middle] <= bound else (middle + 1, high)
    return Choice(order[:low], found[low], alone)
