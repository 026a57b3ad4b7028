"""The images to pick from, and what limits the picks: budget, quota per source, near-duplicates.

N unlabelled images, D feature dimensions, K classes, L labelled images.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from tasks.models.probe import Probe

NEAR_BITS = 6  # of 64 bits: perceptual hashes this close show the same thing


@dataclass(frozen=True)
class Pool:
    """N unlabelled images with readable features."""

    features: np.ndarray  # (N, D) float, of a frozen network
    probabilities: np.ndarray | None = None  # (N, K) of the present model; None: there is no model yet
    multilabel: bool = False
    head: Probe | None = None  # the linear classifier that gave `probabilities`; None: unknown
    labelled: np.ndarray | None = None  # (L, D) features of images that have a label; None: unknown
    counts: np.ndarray | None = None  # (K,) labels per class so far; None: unknown
    unfamiliar: np.ndarray | None = None  # (N,) out-of-distribution scores, higher is less familiar; None: unknown
    sources: Sequence[str] | None = None  # (N,) where each comes from; None: all from one source
    hashes: np.ndarray | None = None  # (N,) uint64 perceptual hashes; None: near-duplicates are not left out

    def __len__(self) -> int:
        return len(self.features)

    def rows(self, which: np.ndarray) -> "Pool":
        """The pool of the images `which` (numbers of rows)."""

        def part(values):
            return None if values is None else np.asarray(values)[which]

        return Pool(
            self.features[which],
            part(self.probabilities),
            self.multilabel,
            self.head,
            self.labelled,
            self.counts,
            part(self.unfamiliar),
            part(self.sources),
            part(self.hashes),
        )


@dataclass
class Limits:
    """Which of N images may still be picked. `take` closes what a pick rules out."""

    pool: Pool
    quota: int  # picks per source
    seen: Sequence[int] = ()  # perceptual hashes of images that were asked for before
    open: np.ndarray = field(init=False)  # (N,) bool
    taken: list[int] = field(init=False, default_factory=list)

    def __post_init__(self):
        count = len(self.pool)
        self.open = np.ones(count, bool)
        self._sources = _names(self.pool)
        self._per_source: Counter = Counter()
        for value in self.seen if self.pool.hashes is not None else ():
            self._close_near(np.uint64(value))

    def take(self, row: int) -> None:
        """Pick `row`, which must be open."""
        self.taken.append(row)
        self.open[row] = False
        source = self._sources[row]
        self._per_source[source] += 1
        if self._per_source[source] >= self.quota:
            self.open &= self._sources != source
        if self.pool.hashes is not None:
            self._close_near(self.pool.hashes[row])

    def _close_near(self, value: np.uint64) -> None:
        self.open &= np.bitwise_count(self.pool.hashes ^ value) > NEAR_BITS


def source_quota(pool: Pool, budget: int, max_share: float) -> int:
    """Picks that one source may give: `max_share` of the budget, or an equal part if there are few sources."""
    names = set(_names(pool).tolist())
    return int(np.ceil(budget * max(max_share, 1 / max(len(names), 1))))


def _names(pool: Pool) -> np.ndarray:
    """(N,) source of each image; all images without one count as one source."""
    return np.array([name or "" for name in ([""] * len(pool) if pool.sources is None else pool.sources)], object)
