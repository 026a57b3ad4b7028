"""How many images a proof needs: power calculations for shares and for differences.

`alpha` is the one-sided level of the test, POWER the chance that the proof succeeds if the figure stays as it is.
"""

import math
from statistics import NormalDist

import numpy as np

POWER = 0.8
EXACT = 5_000  # images up to which the binomial is computed, not approximated
MOST = 10_000_000


def images_to_prove(share: float, bound: float, alpha: float) -> int | None:
    """The least number of images on which a true `share` is shown to be at least `bound`; None: no number suffices.

    Exact: of n images at least c must be right, where c is the smallest count that a share of `bound` gives at most
    `alpha` of the time. n is the least number from which `share` reaches c with a chance of POWER.
    """
    from scipy.special import bdtrc

    if share <= bound:
        return None
    if bound <= 0:
        return 1
    start = 1
    while start <= EXACT:
        n = np.arange(start, min(2 * start, EXACT + 1))
        needed = _critical(n, bound, alpha)
        reached = np.where(needed <= n, bdtrc(np.minimum(needed, n) - 1, n, share), 0.0)
        if (hit := np.flatnonzero(reached >= POWER)).size:
            return int(n[hit[0]])
        start *= 2
    z, z_power = NormalDist().inv_cdf(1 - alpha), NormalDist().inv_cdf(POWER)
    root = z * math.sqrt(bound * (1 - bound)) + z_power * math.sqrt(share * (1 - share))
    n = math.ceil((root / (share - bound)) ** 2)
    return max(n, EXACT) if n <= MOST else None


def _critical(n: np.ndarray, bound: float, alpha: float) -> np.ndarray:
    """(M,) the smallest count c with P(at least c of n right) <= alpha if `bound` is the true share; n + 1: none."""
    from scipy.special import bdtrc

    low, high = np.zeros_like(n), n + 1  # P(at least 0) = 1, P(at least n + 1) = 0
    while (high - low > 1).any():
        middle = (low + high) // 2
        rare = bdtrc(middle - 1, n, bound) <= alpha
        low, high = np.where(rare, low, middle), np.where(rare, middle, high)
    return high


def images_by_width(images: int, half: float, distance: float, alpha: float) -> int | None:
    """About how many images show a figure, whose interval on `images` reaches `half` down, to be above a bound.

    `distance`: of the figure from the bound. Intervals shrink with the square root of the number of images.
    """
    if distance <= 0 or not math.isfinite(half):
        return None
    z, z_power = NormalDist().inv_cdf(1 - alpha), NormalDist().inv_cdf(POWER)
    n = math.ceil(images * (half * (1 + z_power / z) / distance) ** 2)
    return n if n <= MOST else None
