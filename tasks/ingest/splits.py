"""The split of each new image: decided once, shared with its near-duplicates.

N new images lie in G groups of identical hash and thumbnail; `pairs` (P, 2) are near-duplicate groups.
An image goes to the first of these that exists:
1. the split it was offered for;
2. the recorded split of its group (a new group: the split that most recorded near-duplicates of its rows have);
3. the split of its near-duplicates, recorded or just decided;
4. a hash of its group, else of its near-duplicate cluster (smallest id), and the seed.
It is refused if a near-duplicate lies in another split. Given splits are decided first, test before calibration before
train: of a new pair the training image is refused.
"""

import hashlib
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tasks.common.params import SplitFractions
from tasks.common.schemas import SPLITS
from tasks.inspection.near_duplicates import clusters
from tasks.sources.fields import Unusable

GROWING = ("train", "calibration", "test")  # the splits an image may go to without being offered for it


@dataclass(frozen=True)
class Lookalikes:
    """Which of N new images look alike, and like which recorded images."""

    groups: np.ndarray  # (N,) int in 0..G-1: images of one group are identical in hash and thumbnail
    pairs: np.ndarray  # (P, 2) of groups that are near-duplicates
    neighbours: Mapping[int, set[str]]  # group -> splits of its near-duplicates in the data set


def split_by_hash(key: str, seed: int, fractions: SplitFractions, allowed: Sequence[str] = ()) -> str:
    """One of `allowed` (empty: train, calibration, test) with the shares of `fractions`; depends on nothing else."""
    names = [name for name in GROWING if not allowed or name in allowed]
    shares = np.array([getattr(fractions, name) for name in names])
    if shares.sum() <= 0:
        return names[0]
    edges = np.cumsum(shares) / shares.sum()
    point = int.from_bytes(hashlib.sha256(f"{seed}:{key}".encode()).digest()[:8]) / 2**64
    return names[min(int(np.searchsorted(edges, point, side="right")), int(np.flatnonzero(shares)[-1]))]


def assign_splits(
    ids: Sequence[str],
    allowed: Sequence[tuple[str, ...]],
    names: Sequence[str | None],
    recorded: Mapping[str, str],
    alike: Lookalikes,
    *,
    seed: int,
    fractions: SplitFractions,
) -> list[str | Unusable]:
    """The split of each of N new images, or why it is refused (bridges_splits, in_hard_set).

    ids (N,); allowed (N,): splits each may go to, empty for any but hard; names (N,) of groups; recorded: split of
    each group in the data set.
    """
    groups = alike.groups
    state = _Assignment(alike, allowed)
    of_name = _group_splits(allowed, names, recorded, alike, seed, fractions)
    fixed: dict[int, str] = {}
    for row, (may, name) in enumerate(zip(allowed, names, strict=True)):
        if len(may) == 1:
            fixed[row] = may[0]
        elif name is not None:
            split = of_name[name]
            fixed[row] = split if not may or split in may else split_by_hash(f"source:{name}", seed, fractions, may)
    for row in sorted(fixed, key=lambda row: (-SPLITS.index(fixed[row]), row)):  # hard, test, calibration, train
        state.decide(row, fixed[row])
    state.spread([*alike.neighbours, *(int(groups[row]) for row in fixed)])

    cluster = clusters(int(groups.max()) + 1, alike.pairs) if len(groups) else groups
    smallest: dict[int, str] = {}
    for row, image in enumerate(ids):
        key = int(cluster[groups[row]])
        smallest[key] = min(image, smallest.get(key, image))
    for row in range(len(ids)):
        if state.result[row] is None:
            split = split_by_hash(f"cluster:{smallest[int(cluster[groups[row]])]}", seed, fractions, allowed[row])
            state.decide(row, split)
            state.spread([int(groups[row])])
    return state.result


def _group_splits(allowed, names, recorded, alike, seed, fractions) -> dict[str, str]:
    """The split of every offered group: recorded, given by its first row that has one, voted, or hashed."""
    given: dict[str, str] = {}
    votes: dict[str, Counter] = defaultdict(Counter)
    for may, name, group in zip(allowed, names, alike.groups.tolist(), strict=True):
        if name is None:
            continue
        if len(may) == 1 and may[0] in GROWING:
            given.setdefault(name, may[0])
        votes[name].update(alike.neighbours.get(group, set()) & set(GROWING))
    found = {}
    for name, counts in votes.items():
        voted = max(GROWING, key=lambda split: counts[split]) if counts else None
        hashed = split_by_hash(f"source:{name}", seed, fractions)
        found[name] = recorded.get(name) or given.get(name) or voted or hashed
    return found


class _Assignment:
    """What is decided so far, and how it spreads along near-duplicates."""

    def __init__(self, alike: Lookalikes, allowed: Sequence[tuple[str, ...]]):
        self.result: list[str | Unusable | None] = [None] * len(alike.groups)
        self.groups = alike.groups.tolist()
        self.neighbours, self.allowed = alike.neighbours, allowed
        self.splits: dict[int, set[str]] = defaultdict(set)  # group -> splits its accepted rows lie in
        self.links: dict[int, list[int]] = defaultdict(list)
        for a, b in alike.pairs.tolist():
            self.links[a].append(b)
            self.links[b].append(a)
        self.rows: dict[int, list[int]] = defaultdict(list)
        for row, group in enumerate(self.groups):
            self.rows[group].append(row)

    def splits_around(self, group: int) -> set[str]:
        """Splits of everything that looks like `group`."""
        found = self.neighbours.get(group, set()) | self.splits.get(group, set())
        for other in self.links.get(group, ()):
            found = found | self.splits.get(other, set())
        return found

    def decide(self, row: int, split: str) -> None:
        """Accept `row` into `split`, or refuse it because a near-duplicate lies in another split."""
        group = self.groups[row]
        others = self.splits_around(group) - {split}
        if split == "hard" or not others:  # hard wins: inspect excludes the training images near it
            self.result[row] = split
            self.splits[group].add(split)
        elif "hard" in others:
            self.result[row] = Unusable("in_hard_set", "near-duplicate of a hard-set image")
        else:
            found = " and ".join(sorted(others))
            self.result[row] = Unusable("bridges_splits", f"belongs to {split}, near-duplicate of images in {found}")

    def spread(self, groups: Iterable[int]) -> None:
        """Decide the undecided images in and near `groups`, and near those in turn, by the splits around them."""
        queue = deque(dict.fromkeys(groups))
        while queue:
            group = queue.popleft()
            for near in (group, *self.links.get(group, ())):
                waiting = [row for row in self.rows[near] if self.result[row] is None]
                around = self.splits_around(near) if waiting else set()
                if not around:
                    continue
                found = next((name for name in GROWING if name in around), "train")
                for row in waiting:
                    may = self.allowed[row]
                    self.decide(row, found if not may or found in may else may[0])
                queue.append(near)
