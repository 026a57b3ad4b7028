"""Find near-duplicate images by perceptual hash without comparing all N x N pairs.

Two hashes that differ in at most `bits` of 64 bits agree on at least one of bits + 1 disjoint bands (pigeonhole). So
candidates are looked up band by band and then compared exactly. Their 16 x 16 grey thumbnails confirm a candidate:
mean absolute difference (of 255) at most `difference`. That is never less than the difference of the two thumbnails'
means, so within a band only images of similar mean are compared.
"""

import numpy as np

CANDIDATES_AT_ONCE = 1 << 18  # pairs of hashes compared at a time: about 10 MB
THUMBNAILS_AT_ONCE = 1 << 14  # pairs of thumbnails compared at a time: 4 MB a side


def near_pairs(phash: np.ndarray, thumbs: np.ndarray, bits: int, difference: float) -> np.ndarray:
    """Near-duplicates among N images: (P, 2) int64, first < second, sorted.

    phash (N,) uint64, thumbs (N, 256) uint8. All pairs are found, with one exception: images identical in both are
    paired only with their first occurrence, so that ten thousand black frames give ten thousand pairs.
    """
    first = _first_identical(phash, thumbs)
    distinct, copies = np.flatnonzero(first == np.arange(len(first))), np.flatnonzero(first != np.arange(len(first)))
    one_each = (phash[distinct], thumbs[distinct]) if len(copies) else (phash, thumbs)  # no copy where none is needed
    found = _near_join(*one_each, None, None, bits, difference)
    pairs = np.concatenate([np.sort(distinct[found], axis=1), np.stack([first[copies], copies], axis=1)])
    return pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]


def near_pairs_between(
    phash: np.ndarray,
    thumbs: np.ndarray,
    old_phash: np.ndarray,
    old_thumbs: np.ndarray,
    bits: int,
    difference: float,
) -> np.ndarray:
    """Near-duplicates of N new images among M old ones: (P, 2) int64 of (new index, old index), sorted.

    All pairs are found, with one exception: of old images identical in hash and thumbnail, only the first is paired.
    """
    first_old = _first_identical(old_phash, old_thumbs)
    distinct = np.flatnonzero(first_old == np.arange(len(first_old)))
    pairs = _near_join(phash, thumbs, old_phash[distinct], old_thumbs[distinct], bits, difference)
    pairs[:, 1] = distinct[pairs[:, 1]]
    return pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]


def clusters(n: int, pairs: np.ndarray) -> np.ndarray:
    """Connected components of n images under `pairs` (P, 2): (n,) int64, each the smallest index of its cluster."""
    root = np.arange(n)
    while True:  # attach each larger root to the smaller one it meets, then flatten; few rounds in practice
        left, right = root[pairs[:, 0]], root[pairs[:, 1]]
        if np.array_equal(left, right):
            return root
        np.minimum.at(root, np.maximum(left, right), np.minimum(left, right))
        while not np.array_equal(root, shorter := root[root]):
            root = shorter


def _first_identical(phash: np.ndarray, thumbs: np.ndarray) -> np.ndarray:
    """(N,): index of the first image with the same hash and thumbnail (its own index if there is no earlier one)."""
    first = np.arange(len(phash))
    _, inverse, counts = np.unique(phash, return_inverse=True, return_counts=True)
    shared = np.flatnonzero(counts[inverse] > 1)  # usually few: only their thumbnails are sorted
    rows = np.column_stack([inverse[shared].astype("<u8").view(np.uint8).reshape(-1, 8), thumbs[shared]])
    _, index, inverse = np.unique(rows.view(f"V{rows.shape[1]}").ravel(), return_index=True, return_inverse=True)
    first[shared] = shared[index[inverse]]
    return first


def _near_join(
    phash: np.ndarray,
    thumbs: np.ndarray,
    old_phash: np.ndarray | None,
    old_thumbs: np.ndarray | None,
    bits: int,
    difference: float,
) -> np.ndarray:
    """All near pairs (row, old row), unordered; without `old`, pairs among the rows themselves, each once."""
    alone = old_phash is None
    old_phash, old_thumbs = (phash, thumbs) if alone else (old_phash, old_thumbs)
    means, old_means = thumbs.mean(axis=1), old_thumbs.mean(axis=1)
    bands = [(_band(phash, b, bits + 1), _band(old_phash, b, bits + 1)) for b in range(bits + 1)]
    window = min(difference, 255.0) + 1e-6  # slack: rounding of the means must not lose a pair
    found = [np.empty((0, 2), np.int64)]
    for number, (band, old_band) in enumerate(bands):
        rank = np.unique(np.concatenate([band, old_band]), return_inverse=True)[1]
        key, old_key = 1024.0 * rank[: len(band)] + means, 1024.0 * rank[len(band) :] + old_means
        order = np.argsort(old_key, kind="stable")
        ordered = old_key[order]
        rows = order if alone else np.arange(len(band))
        low = np.arange(1, len(rows) + 1) if alone else np.searchsorted(ordered, key - window, "left")
        high = np.searchsorted(ordered, key[rows] + window, "right")
        for at, position in _ranges(low, high):
            a, b = rows[at], order[position]
            near = np.bitwise_count(phash[a] ^ old_phash[b]) <= bits
            a, b = a[near], b[near]
            for earlier, old_earlier in bands[:number]:  # an earlier band has found this pair already
                new = earlier[a] != old_earlier[b]
                a, b = a[new], b[new]
            found.append(_confirmed(thumbs, old_thumbs, a, b, difference))
    return np.concatenate(found)


def _band(phash: np.ndarray, band: int, bands: int) -> np.ndarray:
    """Every `bands`-th bit, starting at bit `band`.

    Interleaved, because the signs of neighbouring frequencies correlate: bands of neighbouring bits would put far more
    images into the same bucket.
    """
    mask = sum(1 << bit for bit in range(band, 64, bands))
    return phash & np.uint64(mask)


def _ranges(low: np.ndarray, high: np.ndarray):
    """Yield (index into low, position in [low, high)) of all ranges, in blocks of about CANDIDATES_AT_ONCE."""
    counts = np.maximum(high - low, 0)
    ends = np.cumsum(counts)
    start = 0
    while start < len(counts):
        done = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, done + CANDIDATES_AT_ONCE, "right")))
        block = counts[start:stop]
        at = np.repeat(np.arange(start, stop), block)
        within = np.arange(len(at)) - np.repeat(np.cumsum(block) - block, block)
        yield at, low[at] + within
        start = stop


def _confirmed(
    thumbs: np.ndarray, old_thumbs: np.ndarray, a: np.ndarray, b: np.ndarray, difference: float
) -> np.ndarray:
    """The candidate pairs (a, b) whose thumbnails agree: (P, 2) int64."""
    keep = np.empty(len(a), bool)
    for start in range(0, len(a), THUMBNAILS_AT_ONCE):
        part = slice(start, start + THUMBNAILS_AT_ONCE)
        left, right = thumbs[a[part]], old_thumbs[b[part]]
        distance = np.maximum(left, right) - np.minimum(left, right)  # uint8 without overflow
        keep[part] = distance.mean(axis=1, dtype=np.float32) <= difference
    return np.stack([a[keep], b[keep]], axis=1).astype(np.int64)
