"""The split of each new image: decided once, shared with its group and its near-duplicates.

N new images lie in G looks of identical hash and thumbnail; `pairs` (P, 2) are near-duplicate looks.
An image goes to the first of these that exists:
1. the split it was offered for;
2. the split of its group: the recorded one, else the one that most of its rows were offered for, else the one that most
   near-duplicates of its rows have;
3. the split of its near-duplicates, recorded or just decided;
4. the split of its unit (its group, else its near-duplicate cluster), which tasks.ingest.balance chooses for all units
   together, near the asked shares, or tasks.ingest.holdout by when the unit was taken (`fractions.by`).
It is refused if its group or a near-duplicate lies in another split. Given splits are decided first, test before
calibration before train: of a new pair the training image is refused. The hard set binds no group.
"""

import hashlib
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np

from tasks.common.schemas import SPLITS
from tasks.common.sections.data import SplitFractions
from tasks.ingest import balance, holdout
from tasks.inspection.near_duplicates import clusters
from tasks.sources.fields import Unusable

GROWING = ("train", "calibration", "test")  # the splits an image may go to without being offered for it


@dataclass(frozen=True)
class Lookalikes:
    """Which of N new images look alike, and like which recorded images."""

    looks: np.ndarray  # (N,) int in 0..G-1: images of one look are identical in hash and thumbnail
    pairs: np.ndarray  # (P, 2) of looks that are near-duplicates
    neighbours: Mapping[int, set[str]]  # look -> splits of its near-duplicates in the data set


@dataclass(frozen=True, slots=True)
class NewRow:
    """What decides about the split of a new image."""

    id: str
    allowed: tuple[str, ...] = ()  # splits it may go to; empty: any but hard
    group: str | None = None
    source: str | None = None
    labels: tuple[str, ...] = ()
    taken_at: datetime | None = None


@dataclass(frozen=True)
class RecordedSplits:
    """What the data set holds: the split of each group, and live rows by (split, class) and (split, source).

    Rows without a label count as class None.
    """

    groups: Mapping[str, str] = field(default_factory=dict)
    rows: Mapping[str, int] = field(default_factory=dict)
    classes: Mapping[tuple[str, str | None], int] = field(default_factory=dict)
    sources: Mapping[tuple[str, str], int] = field(default_factory=dict)
    times: holdout.Recorded = holdout.NOTHING  # of rows with a time; only where the split is decided by time


def assign_splits(
    rows: Sequence[NewRow], recorded: RecordedSplits, alike: Lookalikes, *, seed: int, fractions: SplitFractions
) -> list[str | Unusable]:
    """The split of each of N new images, or why it is refused (bridges_splits, in_hard_set)."""
    state = _Assignment(alike, rows)
    order = sorted(range(len(rows)), key=lambda row: rows[row].id)  # the order of the rows decides nothing
    of_group = {name: recorded.groups[name] for row in rows if (name := row.group) in recorded.groups}
    of_group |= _offered(rows, of_group)

    given = [row for row in order if len(rows[row].allowed) == 1]
    given += [row for row in order if len(rows[row].allowed) != 1 and rows[row].group in of_group]
    _decide(state, rows, given, of_group)
    voted = _voted(state, rows, of_group)
    of_group |= voted
    _decide(state, rows, [row for row in order if rows[row].group in voted and state.result[row] is None], of_group)
    state.spread(sorted({*alike.neighbours, *state.splits}))

    open_ = [row for row in order if state.result[row] is None]
    if open_:
        units = _units(rows, open_, alike)
        news = [rows[row] for row in open_]
        if fractions.by == "time":
            chosen = _by_time(news, units, recorded, state.counts(), fractions)
        else:
            chosen = _balanced(news, units, recorded, state.counts(), seed, fractions)
        of_row = {row: GROWING[split] for row, split in zip(open_, chosen[units].tolist(), strict=True)}
        grouped = [row for row in open_ if rows[row].group is not None]
        of_group |= {rows[row].group: of_row[row] for row in grouped}
        _decide(state, rows, grouped, of_group)
        if len(grouped) < len(open_):
            state.spread(alike.looks[row] for row in grouped)
        for row in open_:
            if state.result[row] is None:
                state.decide(row, of_row[row])
                state.spread([alike.looks[row]])
    return state.result


def _offered(rows: Sequence[NewRow], of_group: Mapping[str, str]) -> dict[str, str]:
    """The split that most rows of a new group were offered for; of equal ones test, calibration, train."""
    votes: dict[str, Counter] = defaultdict(Counter)
    for row in rows:
        if row.group is not None and row.group not in of_group and len(row.allowed) == 1:
            votes[row.group].update(set(row.allowed) & set(GROWING))
    return {name: max(GROWING[::-1], key=lambda s: counts[s]) for name, counts in votes.items() if counts}


def _voted(state: "_Assignment", rows: Sequence[NewRow], of_group: Mapping[str, str]) -> dict[str, str]:
    """The split that most near-duplicates of a group's rows have, for groups without a split."""
    votes: dict[str, Counter] = defaultdict(Counter)
    for row, look in zip(rows, state.looks, strict=True):
        if row.group is not None and row.group not in of_group and (around := state.splits_around(look)):
            votes[row.group].update(around & set(GROWING))
    return {name: max(GROWING, key=lambda s: counts[s]) for name, counts in votes.items() if counts}


def _decide(state: "_Assignment", rows: Sequence[NewRow], chosen: Sequence[int], of_group: Mapping[str, str]) -> None:
    """Decide `chosen` rows, which were offered for one split or whose group has one: hard, test, calibration, train."""
    wanted = {}
    for row in chosen:
        may, own = rows[row].allowed, of_group.get(rows[row].group)
        if may == ("hard",) or own is None:
            wanted[row] = may[0]
        elif may and own not in may:
            offered = " or ".join(may)
            why = f"offered for {offered}, but its group {rows[row].group!r} is in {own} and a group is never divided"
            state.result[row] = Unusable("bridges_splits", why)
        else:
            wanted[row] = own
    for row in sorted(wanted, key=lambda row: -SPLITS.index(wanted[row])):
        state.decide(row, wanted[row])


def _units(rows: Sequence[NewRow], open_: Sequence[int], alike: Lookalikes) -> np.ndarray:
    """The unit of each open row, (len(open_),) int from 0: its group, else its cluster; a cluster joins a group's."""
    cluster = clusters(int(alike.looks.max()) + 1, alike.pairs)[alike.looks].tolist()
    of_cluster = {cluster[row]: rows[row].group for row in reversed(open_) if rows[row].group is not None}
    names: dict[str | int, int] = {}
    units = []
    for row in open_:
        name = rows[row].group or of_cluster.get(cluster[row], cluster[row])
        units.append(names.setdefault(name, len(names)))
    return np.array(units)


def _by_time(
    rows: Sequence[NewRow],
    unit: np.ndarray,
    recorded: RecordedSplits,
    decided: RecordedSplits,
    fractions: SplitFractions,
) -> np.ndarray:
    """The split of each unit, (U,) int in GROWING, by tasks.ingest.holdout. unit: (N,) of the `rows`."""
    may = np.ones((int(unit.max()) + 1, 3), bool)
    for u, row in zip(unit.tolist(), rows, strict=True):
        if row.allowed:
            mask = np.isin(GROWING, row.allowed)
            may[u] &= mask if (may[u] & mask).any() else True
    have = np.array([recorded.rows.get(s, 0) + decided.rows.get(s, 0) for s in GROWING])
    shares = np.array([getattr(fractions, name) for name in GROWING])
    return holdout.assign(holdout.times_of([row.taken_at for row in rows]), unit, may, have, recorded.times, shares)


def _balanced(
    rows: Sequence[NewRow],
    unit: np.ndarray,
    recorded: RecordedSplits,
    decided: RecordedSplits,
    seed: int,
    fractions: SplitFractions,
) -> np.ndarray:
    """The split of each unit, (U,) int in GROWING, by tasks.ingest.balance. unit: (N,) of the `rows`."""
    import scipy.sparse as sp

    count = int(unit.max()) + 1
    names = sorted({name for _, name in (*recorded.classes, *decided.classes) if name}.union(*(r.labels for r in rows)))
    code = {name: number for number, name in enumerate([*names, None])}
    pairs = [(u, code[name]) for u, row in zip(unit.tolist(), rows, strict=True) for name in row.labels or (None,)]
    of_unit, of_class = np.array(pairs).T
    classes = sp.csr_matrix((np.ones(len(pairs), np.int64), (of_unit, of_class)), shape=(count, len(code)))
    places = {name: number for number, name in enumerate(sorted({row.source for row in rows} - {None}))}
    source = np.full(count, -1)
    named = [(u, places[row.source]) for u, row in zip(unit.tolist(), rows, strict=True) if row.source is not None]
    if named:
        met, times = np.unique(np.array(named), axis=0, return_counts=True)
        order = np.argsort(times, kind="stable")  # the last write wins: the most frequent source
        source[met[order, 0]] = met[order, 1]
    rank = np.full(count, -1)
    may = np.ones((count, 3), bool)
    restricted = {}
    for u, row in zip(unit.tolist(), rows, strict=True):
        if rank[u] < 0:  # the rows are in the order of their ids
            key = f"group:{row.group}" if row.group is not None else f"cluster:{row.id}"
            rank[u] = int.from_bytes(hashlib.sha256(f"{seed}:{key}".encode()).digest()[:8]) >> 1
        if row.allowed:
            mask = restricted.setdefault(row.allowed, np.array([name in row.allowed for name in GROWING]))
            may[u] &= mask if (may[u] & mask).any() else True
    cover = np.arange(len(code)) < len(names)
    units = balance.Units(np.bincount(unit), classes, source, rank, may, cover)
    have = balance.Recorded(
        np.array([recorded.rows.get(s, 0) + decided.rows.get(s, 0) for s in GROWING]),
        _table(recorded.classes, code) + _table(decided.classes, code),
        _table(recorded.sources, places) + _table(decided.sources, places),
    )
    return balance.assign(units, have, np.array([getattr(fractions, name) for name in GROWING]))


def _table(counts: Mapping[tuple[str, str | None], int], code: Mapping[str | None, int]) -> np.ndarray:
    """(3, len(code)) of `counts` by (split, name)."""
    found = np.zeros((3, len(code)), np.int64)
    for (split, name), count in counts.items():
        if split in GROWING and name in code:
            found[GROWING.index(split), code[name]] += count
    return found


class _Assignment:
    """What is decided so far, and how it spreads along near-duplicates."""

    def __init__(self, alike: Lookalikes, rows: Sequence[NewRow]):
        self.result: list[str | Unusable | None] = [None] * len(alike.looks)
        self.looks = alike.looks.tolist()
        self.neighbours, self.new = alike.neighbours, rows
        self.splits: dict[int, set[str]] = defaultdict(set)  # look -> splits its accepted rows lie in
        self.links: dict[int, list[int]] = defaultdict(list)
        for a, b in alike.pairs.tolist():
            self.links[a].append(b)
            self.links[b].append(a)
        self.rows: dict[int, list[int]] = defaultdict(list)
        for row, look in enumerate(self.looks):
            self.rows[look].append(row)

    def counts(self) -> RecordedSplits:
        """The rows decided so far."""
        rows, classes, sources = Counter(), Counter(), Counter()
        for new, split in zip(self.new, self.result, strict=True):
            if isinstance(split, str):
                rows[split] += 1
                classes.update((split, name) for name in new.labels or (None,))
                sources[split, new.source] += 1
        return RecordedSplits(rows=rows, classes=classes, sources=sources)

    def splits_around(self, look: int) -> set[str]:
        """Splits of everything that looks like `look`."""
        found = self.neighbours.get(look, set()) | self.splits.get(look, set())
        for other in self.links.get(look, ()):
            found = found | self.splits.get(other, set())
        return found

    def decide(self, row: int, split: str) -> None:
        """Accept `row` into `split`, or refuse it because a near-duplicate lies in another split."""
        look = self.looks[row]
        others = self.splits_around(look) - {split}
        if split == "hard" or not others:  # hard wins: inspect excludes the training images near it
            self.result[row] = split
            self.splits[look].add(split)
        elif "hard" in others:
            self.result[row] = Unusable("in_hard_set", "near-duplicate of a hard-set image")
        else:
            found = " and ".join(sorted(others))
            self.result[row] = Unusable("bridges_splits", f"belongs to {split}, near-duplicate of images in {found}")

    def spread(self, looks: Iterable[int]) -> None:
        """Decide undecided images without a group in and near `looks`, and near those in turn, by what is around."""
        queue = deque(dict.fromkeys(map(int, looks)))
        while queue:
            look = queue.popleft()
            for near in (look, *self.links.get(look, ())):
                waiting = [row for row in self.rows[near] if self.result[row] is None and self.new[row].group is None]
                around = self.splits_around(near) if waiting else set()
                if not around:
                    continue
                found = next((name for name in GROWING if name in around), "train")
                for row in waiting:
                    may = self.new[row].allowed
                    self.decide(row, found if not may or found in may else may[0])
                queue.append(near)
