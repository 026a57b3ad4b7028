"""What a comparison shows about a loss: how large one it rules out, or how many images more would."""

import math

from tasks.gate.paired import Difference
from tasks.gate.power import images_by_width
from tasks.scoring.intervals import paired_difference, two_sided


def shown_at_most(found: Difference, margin: float, alpha: float) -> tuple[bool | None, int | None, str]:
    """(is the loss shown to be within `margin`, images more that would show it, the same in words).

    (None, None, "") without a margin: no number of images shows that two models are exactly equal. The images are
    those that equal models need, with the usual power; None where there are very many.
    """
    if margin <= 0:
        return None, None, ""
    low = found.low
    if found.gained is not None:  # a bootstrap of models that never differ is too sure
        low = min(low, paired_difference(found.gained, found.lost, found.n, two_sided(1 - 2 * alpha))[0])
    if not math.isfinite(low):
        return False, None, "how large a loss the images rule out cannot be told"
    if low >= -margin:
        return True, None, f"shown to be at most {100 * max(0.0, -low):.1f} points worse"
    needed = images_by_width(found.n, found.value - low, margin, alpha)
    more = None if needed is None else max(1, needed - found.n)
    images = "very many more images" if more is None else f"about {more:,} more images"
    return False, more, f"a loss of up to {-100 * low:.1f} points is not ruled out: {images} would show it"
