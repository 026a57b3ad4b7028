"""Find cropped, turned, re-encoded and augmented copies of held-out images in training.

T images are trained on, H are held out. Candidates are the pairs that stand out by pretrained features or by a coarse
look at the pixels (tasks.leaks.windows). The pixels of a candidate, laid over each other, prove it or not
(tasks.leaks.align). What counts as proof comes from the data, because photos of one product under one camera agree far
more than photos of streets. Two images are copies if they agree more than nearly all images do with a held-out one
that they are not a copy of, namely with their second most similar one; and more than what else looks like that image.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from zlib import crc32

import numpy as np

from tasks.common.cores import on_all_cores
from tasks.common.progress import track
from tasks.leaks.align import Prepared, prepare, similarity
from tasks.leaks.windows import agreement
from tasks.siblings.feature_index import fit_whitening

BY_FEATURES, BY_LOOK = 20, 12  # candidates per held-out image
NEAREST = 4  # of which it must be among the images' own most similar held-out ones
LEAST_LOOK = 0.45  # agreement of a coarse look under which nothing is a copy
COMMON = 600  # training images from which the usual agreement is measured
UNUSUAL = 0.99  # quantile of it
SPREADS, FEW = 2.0, 8  # a copy stands out among the candidates of its held-out image, unless these are few
LEAST_Z = 0.8  # nothing below is a copy, whatever is usual
AT_ONCE = 256  # images or pairs at a time

Pixels = Callable[[np.ndarray], np.ndarray]  # rows (B,) -> (B, S, S, 3) uint8; called from several threads
Compared = dict[tuple[int, int], float]  # (row trained on, row held out) -> similarity


@dataclass(frozen=True)
class Found:
    """What a search found: P pairs (row trained on, row held out), how alike they are, and what that takes."""

    pairs: np.ndarray  # (P, 2)
    z: np.ndarray  # (P,)
    least: np.ndarray  # (P,) how alike a copy would be
    looks: np.ndarray  # (T, H) float16, agreement of a coarse look
    compared: Compared  # of every pair that was compared

    @property
    def copies(self) -> np.ndarray:
        """(P,) bool."""
        return self.z >= self.least


def find_copies(
    x: np.ndarray,
    pixels: Pixels,
    held_x: np.ndarray,
    held_pixels: Pixels,
    looks: np.ndarray | None = None,
    known: Mapping[tuple[int, int], float] | None = None,
) -> Found:
    """Search T images, features x (T, D), for copies of H held-out images, held_x (H, D).

    looks (T, H) float16, NaN where unknown, and `known` are what earlier searches measured of these images. They save
    time and change nothing: which pairs are compared, and what a copy is, depends on the images of this search alone.
    """
    whitening = fit_whitening(np.concatenate([x, held_x]))
    units, held_units = whitening.apply(x), whitening.apply(held_x)
    sample = np.zeros(len(x), bool)
    sample[_drawn(x)] = True
    held = _prepared(held_pixels, np.arange(len(held_x)))
    unknown = np.full((len(x), len(held_x)), np.nan, np.float16) if looks is None else looks
    looks = _looked(pixels, held, unknown)
    near: dict[str, list[np.ndarray]] = {"features": [], "look": []}
    usual: set[tuple[int, int]] = set()
    for start in range(0, len(x), AT_ONCE):
        rows = np.arange(start, min(start + AT_ONCE, len(x)))
        by_features, by_look = held_units @ units[rows].T, looks[rows].T.astype(np.float32)
        for name, values in (("features", by_features), ("look", by_look)):
            order = np.argsort(-values, axis=0, kind="stable")[:NEAREST]
            for column in np.flatnonzero(sample[rows]):
                usual.add((int(rows[column]), int(order[min(1, len(order) - 1), column])))
            t, h = np.broadcast_to(np.arange(len(rows)), order.shape).ravel(), order.ravel()
            near[name].append(np.stack([rows[t], h, values[h, t]])[:, by_look[h, t] >= LEAST_LOOK])
    wanted: set[tuple[int, int]] = set()
    for name, most in (("features", BY_FEATURES), ("look", BY_LOOK)):
        t, h, value = np.concatenate([np.empty((3, 0)), *near[name]], axis=1)
        wanted |= _first(t.astype(int), h.astype(int), value, most)
    compared = _compare(wanted | usual, pixels, held, known or {})
    usually = np.array([compared[pair] for pair in sorted(usual)])
    pairs = np.array(sorted(wanted), np.int64).reshape(-1, 2)
    z = np.array([compared[tuple(pair)] for pair in pairs.tolist()], np.float32)
    return Found(pairs, z, np.maximum(limit(usually), own_limits(pairs[:, 1], z)), looks, compared)


def _drawn(x: np.ndarray) -> np.ndarray:
    """COMMON rows of x (T, D), drawn by their content: beside new images most of them are drawn again."""
    return np.argsort([crc32(row.tobytes()) for row in x], kind="stable")[:COMMON]


def _looked(pixels: Pixels, held: Prepared, looks: np.ndarray) -> np.ndarray:
    """`looks` (T, H) with every pair: how well each of two images fits into the other, the better way.

    Only pairs that are not known are looked at: all of an image that is new in training, and those of new held-out
    images with every other one.
    """
    looks, unknown = looks.copy(), np.isnan(looks)
    new = unknown.all(axis=1)
    parts = []  # (rows, columns, what is held out in these columns)
    for here in (new, unknown.any(axis=1) & ~new):
        columns = np.flatnonzero(unknown[here].any(axis=0))
        part = held.part(columns)
        parts += [(rows, columns, part) for rows in _parts(np.flatnonzero(here))]

    def look(of: tuple[np.ndarray, np.ndarray, Prepared]) -> np.ndarray:
        rows, _, part = of
        here = prepare(pixels(rows))
        return np.maximum(agreement(part.template, here.window), agreement(here.template, part.window).T).T

    found = track(on_all_cores(look, parts), "looking for copies of held-out images", len(parts))
    for (rows, columns, _), values in zip(parts, found, strict=True):
        looks[np.ix_(rows, columns)] = values
    return looks


def _parts(rows: Sequence) -> list:
    """`rows`, AT_ONCE in each."""
    return [rows[start : start + AT_ONCE] for start in range(0, len(rows), AT_ONCE)]


def limit(usual: np.ndarray) -> float:
    """The similarity from which on two images are copies; `usual` (U,) are similarities of images that are none."""
    if len(usual) == 0:
        return LEAST_Z
    return max(LEAST_Z, float(np.quantile(usual, UNUSUAL)))


def own_limits(held: np.ndarray, z: np.ndarray) -> np.ndarray:
    """How alike a copy of its held-out image `held` (P,) would be by its other candidates, (P,); `z` (P,) of all.

    The spread is that below the middle: the copies themselves lie above it.
    """
    found = np.full(len(z), LEAST_Z)
    for image in np.unique(held):
        here = held == image
        if here.sum() >= FEW:
            low, middle = np.quantile(z[here], [0.16, 0.5])
            found[here] = middle + SPREADS * (middle - low)
    return found


def _first(t: np.ndarray, h: np.ndarray, value: np.ndarray, most: int) -> set[tuple[int, int]]:
    """The `most` pairs (t, h) of each h with the largest values."""
    order = np.lexsort((t, -value, h))
    t, h = t[order], h[order]
    place = np.arange(len(h)) - np.searchsorted(h, h)
    return set(zip(t[place < most].tolist(), h[place < most].tolist(), strict=True))


def _compare(pairs: set[tuple[int, int]], pixels: Pixels, held: Prepared, known: Mapping) -> Compared:
    """The similarity of each pair (row trained on, row held out)."""
    found = {pair: known[pair] for pair in pairs if pair in known}
    parts = _parts(sorted(pairs - set(found)))

    def compare(part: list[tuple[int, int]]) -> list[float]:
        of, held_of = np.array(part).T
        rows, place = np.unique(of, return_inverse=True)
        return similarity(prepare(pixels(rows)), place, held, held_of).tolist()

    measured = track(on_all_cores(compare, parts), "comparing possible copies", len(parts))
    for part, z in zip(parts, measured, strict=True):
        found |= dict(zip(part, z, strict=True))
    return found


def _prepared(pixels: Pixels, rows: np.ndarray) -> Prepared:
    """Prepared images of all `rows`, which takes 45 KB each."""
    parts = list(on_all_cores(lambda part: prepare(pixels(part)), _parts(rows)))
    fields = ("image", "seen", "template", "window")
    return Prepared(*(np.concatenate([getattr(part, name) for part in parts]) for name in fields))
