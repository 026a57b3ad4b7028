"""Groups of samples that count as one observation, such as the images of one object or session."""

from collections.abc import Sequence

import numpy as np


def group_numbers(groups: Sequence[str | None]) -> np.ndarray:
    """(N,) numbers from 0 of the group names of N samples; None is a group of its own."""
    known: dict = {}
    return np.array(
        [known.setdefault(row if name is None else str(name), len(known)) for row, name in enumerate(groups)], np.int64
    )
