"""Draw the images that trials are made on: few, of all classes, of many groups."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from tasks.common.params import ImagesParams
from tasks.dataset.decode import Undecodable, decode
from tasks.scoring.targets import encode
from tasks.sources import fields
from tasks.sources.fields import Unusable
from tasks.sources.source import Source

LIMIT = 1500  # images: features of so many take seconds, and balanced accuracy is known to a few points
LEAST = 8  # images of a class where it has so many
ENOUGH = 60  # images: with fewer, intervals are too wide to decide anything
SEED = 0


@dataclass(frozen=True)
class TrialSample:
    """N of `of` labelled images: decoded, `targets` (N,) or (N, K) as targets.encode gives them, `groups` (N,)."""

    images: list
    targets: np.ndarray
    groups: np.ndarray
    classes: list[str]
    of: int


def draw_sample(source: Source, task: str, reach: int | None) -> TrialSample | None:
    """A sample of `source`, or None if it has fewer than two classes or ENOUGH images.

    `reach`: only so many first rows are read (None: all).
    """
    labels, groups = [], []
    for row in islice(source.rows(images=False), reach):
        labels.append(_label(row.label, task))
        groups.append(row.group)
    chosen = choose_rows(labels, groups, LIMIT)
    images, kept = [], []
    for number, row in enumerate(islice(source.rows(), max(chosen, default=-1) + 1)):
        if number not in chosen:
            continue
        try:
            images.append(decode(row.read(), ImagesParams().max_pixels))
            kept.append(number)
        except (Unusable, Undecodable):
            continue
    counts: dict[str, int] = defaultdict(int)
    for number in kept:
        for name in _names(labels[number]):
            counts[name] += 1
    classes = sorted(name for name, count in counts.items() if count >= 2)
    usable = [place for place, number in enumerate(kept) if set(_names(labels[number])) <= set(classes)]
    if len(classes) < 2 or len(usable) < ENOUGH:
        return None
    import pyarrow as pa

    given = [labels[kept[place]] for place in usable]
    return TrialSample(
        [images[place] for place in usable],
        encode(pa.chunked_array([given]), classes, task),
        np.array([groups[kept[place]] or f"row {kept[place]}" for place in usable]),
        classes,
        of=sum(label is not None for label in labels),
    )


def choose_rows(labels: Sequence, groups: Sequence[str | None], limit: int) -> set[int]:
    """Up to `limit` rows with a label, by class in proportion, at least LEAST of each; groups take turns.

    Deterministic. Images of one group say the same, so each group gives its first image before any gives its second.
    """
    order = np.random.default_rng(SEED).permutation(len(labels))
    of_class: dict[str, list[int]] = defaultdict(list)
    for number in order.tolist():
        for name in _names(labels[number])[:1]:
            of_class[name].append(number)
    total = sum(map(len, of_class.values()))
    chosen: set[int] = set()
    for _, rows in sorted(of_class.items()):
        quota = len(rows) if total <= limit else max(LEAST, round(limit * len(rows) / total))
        turn: dict[str, int] = defaultdict(int)
        ranks = {}
        for number in rows:
            name = groups[number] or f"row {number}"
            ranks[number] = turn[name]
            turn[name] += 1
        chosen.update(sorted(rows, key=ranks.__getitem__)[:quota])
    return chosen


def _label(raw, task: str):
    try:
        return fields.label(raw, task, None)
    except Unusable:
        return None


def _names(label) -> list[str]:
    return [] if label is None else label if isinstance(label, list) else [label]
