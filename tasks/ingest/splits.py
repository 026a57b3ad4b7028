"""Which split a new image goes to: once, for ever, and never next to its near-duplicate in another split.

N new images lie in G groups of identical look; `pairs` (P, 2) are the near-duplicate groups. In this order an
image goes to
1. the split it was offered for;
2. its source's recorded split (a new source: the split of most of its rows' recorded near-duplicates);
3. the split of its near-duplicates, recorded or just decided;
4. a hash of its source, else of its near-duplicate cluster (smallest id), and the seed.
Then it is refused if a near-duplicate lies in another split: what is given goes first, test before calibration
before train, so that of a new pair the training image is refused.
"""

import hashlib
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from tasks.common.params import SplitFractions
from tasks.common.schemas import SPLITS
from tasks.inspection.near_duplicates import clusters
from tasks.sources.fields import Unusable

GROWING = ("train", "calibration", "test")  # the splits an image may go to without being offered for it


def by_hash(key: str, seed: int, fractions: SplitFractions, allowed: Sequence[str] = ()) -> str:
    """One of `allowed` (empty: train, calibration, test) with the shares of `fractions`; depends on nothing else."""
    names = [name for name in GROWING if not allowed or name in allowed]
    shares = np.array([getattr(fractions, name) for name in names])
    if shares.sum() <= 0:
        return names[0]
    edges = np.cumsum(shares) / shares.sum()
    point = int.from_bytes(hashlib.sha256(f"{seed}:{key}".encode()).digest()[:8]) / 2**64
    return names[min(int(np.searchsorted(edges, point, side="right")), int(np.flatnonzero(shares)[-1]))]


def assign(
    ids: Sequence[str],
    allowed: Sequence[tuple[str, ...]],
    sources: Sequence[str | None],
    recorded: Mapping[str, str],
    groups: np.ndarray,
    pairs: np.ndarray,
    neighbours: Mapping[int, set[str]],
    *,
    seed: int,
    fractions: SplitFractions,
) -> list[str | Unusable]:
    """The split of each of N new images, or why it is refused (bridges_splits, in_hard_set).

    ids (N,); allowed (N,): splits each may go to, empty for any but hard; sources (N,); recorded: split of each
    source in the data set; groups (N,) int in 0..G-1; pairs (P, 2) of groups; neighbours: group -> splits of its
    near-duplicates in the data set.
    """
    state = _State(groups, pairs, neighbours, allowed)
    of_source = _source_splits(allowed, sources, recorded, groups, neighbours, seed, fractions)
    fixed: dict[int, str] = {}
    for row, (may, source) in enumerate(zip(allowed, sources, strict=True)):
        if len(may) == 1:
            fixed[row] = may[0]
        elif source is not None:
            split = of_source[source]
            fixed[row] = split if not may or split in may else by_hash(f"source:{source}", seed, fractions, may)
    for row in sorted(fixed, key=lambda row: (-SPLITS.index(fixed[row]), row)):  # hard, test, calibration, train
        state.decide(row, fixed[row])
    state.spread([*neighbours, *(int(groups[row]) for row in fixed)])

    cluster = clusters(int(groups.max()) + 1, pairs) if len(groups) else groups
    smallest: dict[int, str] = {}
    for row, image in enumerate(ids):
        key = int(cluster[groups[row]])
        smallest[key] = min(image, smallest.get(key, image))
    for row in range(len(ids)):
        if state.result[row] is None:
            split = by_hash(f"cluster:{smallest[int(cluster[groups[row]])]}", seed, fractions, allowed[row])
            state.decide(row, split)
            state.spread([int(groups[row])])
    return state.result


def _source_splits(allowed, sources, recorded, groups, neighbours, seed, fractions) -> dict[str, str]:
    """The split of every source offered: recorded, given with its first given row, voted, or hashed."""
    given: dict[str, str] = {}
    votes: dict[str, Counter] = defaultdict(Counter)
    for may, source, group in zip(allowed, sources, groups.tolist(), strict=True):
        if source is None:
            continue
        if len(may) == 1 and may[0] in GROWING:
            given.setdefault(source, may[0])
        votes[source].update(neighbours.get(group, set()) & set(GROWING))
    found = {}
    for source, counts in votes.items():
        voted = max(GROWING, key=lambda name: counts[name]) if counts else None
        hashed = by_hash(f"source:{source}", seed, fractions)
        found[source] = recorded.get(source) or given.get(source) or voted or hashed
    return found


class _State:
    """What is decided so far, and how it spreads along near-duplicates."""

    def __init__(self, groups, pairs, neighbours, allowed):
        self.result: list[str | Unusable | None] = [None] * len(groups)
        self.groups = groups.tolist()
        self.neighbours, self.allowed = neighbours, allowed
        self.splits: dict[int, set[str]] = defaultdict(set)  # group -> splits its accepted rows lie in
        self.links: dict[int, list[int]] = defaultdict(list)
        for a, b in pairs.tolist():
            self.links[a].append(b)
            self.links[b].append(a)
        self.rows: dict[int, list[int]] = defaultdict(list)
        for row, group in enumerate(self.groups):
            self.rows[group].append(row)

    def around(self, group: int) -> set[str]:
        """Splits of everything that looks like `group`."""
        found = self.neighbours.get(group, set()) | self.splits.get(group, set())
        for other in self.links.get(group, ()):
            found = found | self.splits.get(other, set())
        return found

    def decide(self, row: int, split: str) -> None:
        """Accept `row` into `split`, or refuse it for what lies around it."""
        group = self.groups[row]
        others = self.around(group) - {split}
        if split == "hard" or not others:  # hard images go first: inspect excludes the training images near them
            self.result[row] = split
            self.splits[group].add(split)
        elif "hard" in others:
            self.result[row] = Unusable("in_hard_set", "near-duplicate of a hard-set image")
        else:
            found = " and ".join(sorted(others))
            self.result[row] = Unusable("bridges_splits", f"belongs to {split}, near-duplicate of images in {found}")

    def spread(self, groups: Iterable[int]) -> None:
        """Give the undecided images in and near `groups`, and near those in turn, the split around them."""
        queue = deque(dict.fromkeys(groups))
        while queue:
            group = queue.popleft()
            for near in (group, *self.links.get(group, ())):
                waiting = [row for row in self.rows[near] if self.result[row] is None]
                around = self.around(near) if waiting else set()
                if not around:
                    continue
                found = next((name for name in GROWING if name in around), "train")
                for row in waiting:
                    may = self.allowed[row]
                    self.decide(row, found if not may or found in may else may[0])
                queue.append(near)
