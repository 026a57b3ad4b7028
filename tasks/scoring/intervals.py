"""Confidence intervals of proportions and of differences of two proportions, from counts.

`z` is the standard normal quantile of the wanted confidence: 1.96 for 95 % two-sided (`two_sided`), 2.326 for 99 %
one-sided. scipy.stats has Wilson's interval too, but importing it takes half a second; a test compares the two.
"""

import math
from statistics import NormalDist


def two_sided(confidence: float) -> float:
    """`z` of a two-sided interval: 0.95 -> 1.96."""
    return NormalDist().inv_cdf((1 + confidence) / 2)


def wilson(count: int, n: int, z: float) -> tuple[float, float]:
    """(low, high) of the proportion `count` / `n` (Wilson 1927); (0, 1) for `n` = 0.

    Unlike the normal approximation it stays inside 0..1 and has a width for 0 of n and n of n.
    """
    if n == 0:
        return 0.0, 1.0
    share, z2 = count / n, z * z
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = z * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return max(0.0, middle - half), min(1.0, middle + half)


def paired_difference(gained: int, lost: int, n: int, z: float) -> tuple[float, float]:
    """(low, high) of new minus old on the same `n` images (Agresti & Min 2005, adjusted Wald for matched pairs).

    `gained` images only the new model has right, `lost` only the old. Half a count more in each of the four cells
    makes the interval hold its level for few images.
    """
    more, less, size = gained + 0.5, lost + 0.5, n + 2
    middle = (more - less) / size
    half = z * math.sqrt(more + less - (more - less) ** 2 / size) / size
    return max(-1.0, middle - half), min(1.0, middle + half)


def unpaired_difference(count: int, n: int, count_before: int, n_before: int, z: float) -> tuple[float, float]:
    """(low, high) of `count` / `n` minus `count_before` / `n_before` on different images (Agresti & Caffo 2000).

    One success and one failure more in each group.
    """
    p, size = (count + 1) / (n + 2), n + 2
    q, size_before = (count_before + 1) / (n_before + 2), n_before + 2
    half = z * math.sqrt(p * (1 - p) / size + q * (1 - q) / size_before)
    return max(-1.0, p - q - half), min(1.0, p - q + half)
