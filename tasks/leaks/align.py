"""Lay one image over another, and say in how many ways their pixels agree.

Placements (M, 2, 3) of tasks.leaks.windows are refined by Gauss-Newton steps (inverse compositional; S. Baker, I.
Matthews, "Lucas-Kanade 20 Years On", 2004). Samples are normalised, so light and contrast do not matter.

What agrees between a photo and its copy are details at their places; two photos of alike things agree only in coarse
shapes. So the agreement is the mean, over four bands of detail, of Fisher's z of the correlation of the two images.
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from tasks.leaks.greys import SIDE, blurred, grey, grid, sample, shown, without_fill
from tasks.leaks.windows import SCALES, nearest_scale, starts, templates, windows

STARTS, FINE = 3, 2  # placements refined by coarse samples in each direction; the best of these, by fine samples
STEPS = ((16, 6), (32, 8))  # (samples per side, steps), coarse and fine
AT_ONCE = 64  # pairs at a time: about 100 MB
BANDS = ((0, 1), (1, 2), (2, 4), (4, 8))  # of detail, pixels
MOST_Z = 0.995  # correlations above say the same
SMALLEST, LARGEST = 0.4, 1.25  # sides of the part of an image that another may show, of its own
SKEWED = 1.5  # largest ratio of these sides: a crop may change the aspect a little
SEEN = 0.25  # a placement that shows less of an image proves nothing


@dataclass(frozen=True)
class Prepared:
    """N images ready to be compared."""

    image: np.ndarray  # (N, SIDE, SIDE) float32
    seen: np.ndarray  # (N, SIDE, SIDE) bool
    template: np.ndarray
    window: np.ndarray

    def part(self, rows: np.ndarray) -> "Prepared":
        """The images `rows`."""
        return Prepared(self.image[rows], self.seen[rows], self.template[rows], self.window[rows])


def prepare(pixels: np.ndarray) -> Prepared:
    """pixels (N, S, S, 3) uint8."""
    image = grey(pixels)
    seen = shown(image)
    image = without_fill(image, seen)
    return Prepared(image, seen, templates(image), windows(image))


def similarity(a: Prepared, i: np.ndarray, b: Prepared, j: np.ndarray) -> np.ndarray:
    """How alike images i (M,) of `a` and j (M,) of `b` are in their details after the best placement, (M,) float32.

    0 for unrelated images, above 1 for copies; either may be a part of the other.
    """
    found = [_similarity(a, i[s : s + AT_ONCE], b, j[s : s + AT_ONCE]) for s in range(0, len(i), AT_ONCE)]
    return np.concatenate(found) if found else np.empty(0, np.float32)


def _similarity(a: Prepared, i: np.ndarray, b: Prepared, j: np.ndarray) -> np.ndarray:
    ways = ((a, i, b, j), (b, j, a, i))
    placed, agree = [], []
    for one, rows, other, others in ways:
        begin = starts(one.template[rows], other.window[others], STARTS)
        better, how = _refine(one, np.repeat(rows, STARTS), other, np.repeat(others, STARTS), begin, *STEPS[0])
        placed.append(better.reshape(begin.shape))
        agree.append(how.reshape(len(rows), STARTS))
    placed, agree = np.concatenate(placed, axis=1), np.concatenate(agree, axis=1)
    order = np.argsort(-agree, axis=1)[:, :FINE]
    best, way = np.full(len(i), -2.0, np.float32), np.zeros(len(i), int)
    final = np.zeros((len(i), 2, 3), np.float32)
    for choice in order.T:
        for number, (one, rows, other, others) in enumerate(ways):
            here = np.flatnonzero(choice // STARTS == number)
            better, how = _refine(one, rows[here], other, others[here], placed[here, choice[here]], *STEPS[1])
            up = how > best[here]
            kept = here[up]
            best[kept], final[kept], way[kept] = how[up], better[up], number
    found = np.empty(len(i), np.float32)
    for number, (one, rows, other, others) in enumerate(ways):
        here = np.flatnonzero(way == number)
        found[here] = _detail(one, rows[here], other, others[here], final[here])
    return found


def _normal(values: np.ndarray, inside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values (M, P) with mean 0 and deviation 1 `inside`, 0 outside; and the deviation (M, 1), at least 1 level."""
    count = np.maximum(inside.sum(axis=1, keepdims=True), 1)
    values = np.where(inside, values - (values * inside).sum(axis=1, keepdims=True) / count, 0)
    deviation = np.maximum(np.sqrt((values**2).sum(axis=1, keepdims=True) / count), 1.0)
    return values / deviation, deviation


def _refine(
    a: Prepared, i: np.ndarray, b: Prepared, j: np.ndarray, placed: np.ndarray, n: int, steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """Placements of templates a[i] on images b[j], refined by n x n samples, and their correlation (M,)."""
    if len(i) == 0:
        return placed.reshape(-1, 2, 3), np.empty(0, np.float32)
    placed = np.concatenate([placed.reshape(-1, 2, 3), np.tile(np.float32([[[0, 0, 1]]]), (len(i), 1, 1))], axis=1)
    used, i = np.unique(i, return_inverse=True)
    used_b, j = np.unique(j, return_inverse=True)
    sigma, points = 0.5 * SIDE / n, grid(n)
    levels = np.stack([blurred(b.image[used_b], sigma * scale) for scale in SCALES], axis=1).reshape(-1, SIDE, SIDE)
    seen = b.seen[used_b]
    filled = np.flatnonzero(~seen.all(axis=(1, 2))[j])  # all of most images is seen
    seen = seen.astype(np.float32)
    every, whole = np.arange(len(used)), np.broadcast_to(points, (len(used), *points.shape))
    mask = sample(a.seen[used].astype(np.float32), every, whole)[0] > 0.5
    raw = sample(blurred(a.image[used], sigma), every, whole)[0]
    values, deviation = _normal(raw, mask)
    down, right = np.gradient(raw.reshape(-1, n, n), 2 / n, axis=(1, 2))
    gx, gy = (slope.reshape(len(used), -1) / deviation * mask for slope in (right, down))
    x, y = points.T
    slopes = np.stack([gx * x, gx * y, gx, gy * x, gy * y, gy], axis=-1)  # (N, n * n, 6)
    normal = np.matmul(np.swapaxes(slopes, 1, 2), slopes)
    damping = 0.02 * np.trace(normal, axis1=1, axis2=2)[:, None, None] / 6 + 1e-6
    solve = np.matmul(slopes, np.linalg.inv(normal + damping * np.eye(6, dtype=np.float32))).astype(np.float32)
    values, mask, solve = values[i], mask[i], solve[i]
    for left in range(steps, -1, -1):
        at = points @ np.swapaxes(placed[:, :2, :2], 1, 2) + placed[:, None, :2, 2]
        found, inside = sample(levels, j * len(SCALES) + nearest_scale(placed[:, :2]), at)
        inside[filled] &= sample(seen, j[filled], at[filled])[0] > 0.5
        inside &= mask
        found, _ = _normal(found, inside)
        if not left:
            break
        error = np.clip(found - values, -1.5, 1.5) * inside  # clipped: a text over the image is not to drag it along
        step = np.clip(np.matmul(error[:, None], solve)[:, 0], -0.2, 0.2)
        moved = np.tile(np.eye(3, dtype=np.float32), (len(step), 1, 1))
        moved[:, :2] += step.reshape(-1, 2, 3)
        placed = (placed @ np.linalg.inv(moved)).astype(np.float32)
    here, _ = _normal(values, inside)
    share = inside.mean(axis=1)
    enough = share > 0.4 * np.maximum(mask.mean(axis=1), SEEN)
    sides = np.linalg.svd(placed[:, :2, :2], compute_uv=False)
    enough &= (sides[:, 1] >= SMALLEST) & (sides[:, 0] <= LARGEST) & (sides[:, 0] <= SKEWED * sides[:, 1])
    return placed[:, :2], np.where(enough, (here * found).mean(axis=1) / np.maximum(share, 1e-3), -1)


def _detail(a: Prepared, i: np.ndarray, b: Prepared, j: np.ndarray, placed: np.ndarray) -> np.ndarray:
    """(M,): the mean over BANDS of Fisher's z of the correlation of templates a[i] with images b[j] as placed."""
    if len(i) == 0:
        return np.empty(0, np.float32)
    at = grid(SIDE) @ np.swapaxes(placed[:, :, :2], 1, 2) + placed[:, None, :, 2]
    other, ok = sample(b.image, j, at)
    filled = np.flatnonzero(~b.seen[j].all(axis=(1, 2)))
    ok[filled] &= sample(b.seen[j[filled]].astype(np.float32), np.arange(len(filled)), at[filled])[0] > 0.5
    ok = ok.reshape(-1, SIDE, SIDE) & a.seen[i]
    one, other = a.image[i], other.reshape(-1, SIDE, SIDE)
    count = np.maximum(ok.sum(axis=(1, 2), keepdims=True), 1)
    one, other = ((z - (z * ok).sum(axis=(1, 2), keepdims=True) / count) * ok for z in (one, other))
    inner, weight = ndimage.minimum_filter(ok, (1, 3, 3)), ok.astype(np.float32)
    smooth = {0: (one, other)}
    for sigma in sorted({high for _, high in BANDS}):
        share = np.maximum(blurred(weight, sigma), 0.05)
        smooth[sigma] = tuple(blurred(z, sigma) / share for z in (one, other))
    total = np.zeros(len(i))
    for low, high in BANDS:
        x, y = ((fine - coarse) * inner for fine, coarse in zip(smooth[low], smooth[high], strict=True))
        of = (x * y).sum(axis=(1, 2)) / np.sqrt((x * x).sum(axis=(1, 2)) * (y * y).sum(axis=(1, 2)) + 1e-6)
        total += np.arctanh(np.clip(of, -0.3, MOST_Z))
    return np.where(ok.mean(axis=(1, 2)) > SEEN, total / len(BANDS), 0).astype(np.float32)
