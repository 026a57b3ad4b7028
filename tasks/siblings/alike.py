"""Test whether images of one group are more alike than images of one class in several groups."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

TRIPLES = 1500  # images compared with a sibling and with a stranger
PERMUTATIONS = 199
BLOCK = 4096  # rows whose mean is taken at a time


@dataclass(frozen=True)
class Alikeness:
    """How often an image is more like its sibling than like another image of its class."""

    share: float  # 0.5: not at all
    p_value: float
    triples: int


def measure_alikeness(
    keys: np.ndarray,
    labels: np.ndarray,
    features: "np.ndarray | Looks",
    apart: np.ndarray | None = None,
    *,
    least: float = 0.0,
    seed: int = 0,
) -> Alikeness | None:
    """Compare siblings (same key) with strangers (same label, another key) of up to TRIPLES images.

    keys (N,), "" for none; labels (N,); features (N, F). With `apart` (N,) only siblings that differ in it count: they
    show what a coarser key adds to a finer one. A share below `least` is not tested (p = 1), which saves the shuffling.
    None if no image has both a sibling and a stranger.
    """
    rng = np.random.default_rng(seed)
    group, label = _codes(keys), _codes(labels)
    group[np.asarray(keys) == ""] = -1
    # images of several classes may share a group: compare within label and group
    within = None if apart is None else _codes(apart)
    units = _units(features)
    share, count = _share(group, label, within, units, rng)
    if count == 0:
        return None
    if share < least:
        return Alikeness(share, 1.0, count)
    chance = []
    for _ in range(PERMUTATIONS):
        shuffled = group.copy()
        for rows in _rows_of(np.where(group >= 0, label, -1)):
            shuffled[rows] = rng.permutation(group[rows])
        chance.append(_share(shuffled, label, within, units, rng)[0])
    return Alikeness(share, (1 + sum(one >= share for one in chance)) / (1 + len(chance)), count)


class Looks:
    """`thumbnail_features` of `thumbnails` (N, P) uint8, for the rows asked for: those of all take four times as much.

    `rows` (M,): these of them.
    """

    def __init__(self, thumbnails: np.ndarray, rows: np.ndarray):
        self._thumbnails, self._rows = thumbnails, np.asarray(rows)
        self.shape = (len(self._rows), thumbnails.shape[1])

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: np.ndarray | slice) -> np.ndarray:
        return thumbnail_features(self._thumbnails[self._rows[index]])


def thumbnail_features(thumbnails: np.ndarray) -> np.ndarray:
    """Thumbnails (N, P) uint8 without their brightness and contrast, (N, P) float32: light varies within a track."""
    x = thumbnails.astype(np.float32)
    x -= x.mean(axis=1, keepdims=True)
    return x / np.maximum(x.std(axis=1, keepdims=True), 1)


def _share(group, label, within, units, rng) -> tuple[float, int]:
    anchors = rng.permutation(np.flatnonzero(group >= 0))
    by_group, by_label = _order(group), _order(label)
    anchors = anchors[: 2 * TRIPLES]
    sibling, stranger = _draw(by_group, group[anchors], rng), _draw(by_label, label[anchors], rng)
    fits = (sibling != anchors) & (label[sibling] == label[anchors])
    fits &= (group[stranger] != group[anchors]) & (group[stranger] >= 0)
    if within is not None:
        fits &= within[sibling] != within[anchors]
    a, b, c = anchors[fits][:TRIPLES], sibling[fits][:TRIPLES], stranger[fits][:TRIPLES]
    if not len(a):
        return 0.5, 0
    of_a = units(a)
    near, far = (of_a * units(b)).sum(axis=1), (of_a * units(c)).sum(axis=1)
    return float(np.mean(near > far) + 0.5 * np.mean(near == far)), len(a)


def _order(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(codes, kind="stable")
    return order, codes[order]


def _draw(ordered: tuple[np.ndarray, np.ndarray], wanted: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random row for each of the codes `wanted`."""
    order, codes = ordered
    low, high = np.searchsorted(codes, wanted, "left"), np.searchsorted(codes, wanted, "right")
    return order[low + (rng.random(len(wanted)) * (high - low)).astype(int)]


def _rows_of(codes: np.ndarray) -> list[np.ndarray]:
    order, ordered = _order(codes)
    cuts = np.flatnonzero(np.diff(ordered)) + 1
    return [rows for rows in np.split(order, cuts) if len(rows) and codes[rows[0]] >= 0]


def _codes(values: np.ndarray) -> np.ndarray:
    return np.unique(np.asarray(values).astype(str), return_inverse=True)[1].astype(np.int64)


def _units(features: "np.ndarray | Looks") -> Callable[[np.ndarray], np.ndarray]:
    """What gives rows of `features` (N, F) without their mean, of length 1, as float32: all at once would be copies."""
    total = np.zeros(features.shape[1])
    for start in range(0, len(features), BLOCK):
        total += np.asarray(features[start : start + BLOCK], np.float32).sum(axis=0, dtype=np.float64)
    mean = (total / max(len(features), 1)).astype(np.float32)

    def units(rows: np.ndarray) -> np.ndarray:
        x = np.asarray(features[rows], np.float32) - mean
        return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-9)

    return units
