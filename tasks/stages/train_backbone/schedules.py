"""How the learning rate goes over a phase: the share of its peak at each step.

`at` is the step's place in what is left after the warm-up, from 0 to 1 (1 is never reached: it is the step after the
last).
"""

import math
from typing import Literal

Schedule = Literal["cosine", "linear", "constant", "one_cycle", "warm_restarts"]

WARM_UP = 20  # steps at the start of a phase (at most a tenth of it): AdamW's first steps are its wildest
RISE = 0.3  # of the steps of one cycle, while the rate rises ...
LOW = 1 / 25  # ... from this share of its peak, ...
LAST = 1e-4  # ... and then falls to this share of LOW
CYCLES = 3  # of warm restarts, each twice as long as the one before


def schedule_factor(schedule: Schedule, step: int, steps: int) -> float:
    """Share of the peak rate at `step` (from 0) of `steps`."""
    if schedule == "one_cycle":  # it has a warm-up of its own
        return one_cycle(step / steps)
    warm = warm_up_steps(steps)
    if step < warm:
        return (step + 1) / (warm + 1)
    at = (step - warm) / max(1, steps - warm)
    falls = {"constant": lambda at: 1.0, "linear": lambda at: 1 - at, "cosine": cosine, "warm_restarts": warm_restarts}
    return falls[schedule](at)


def warm_up_steps(steps: int) -> int:
    """How many of a phase's `steps` the rate rises."""
    return min(WARM_UP, steps // 10)


def cosine(at: float) -> float:
    """From 1 to 0 along half a cosine."""
    return 0.5 * (1 + math.cos(math.pi * at))


def one_cycle(at: float) -> float:
    """A long rise to the peak, then a fall to almost nothing (Smith and Topin 2018, "Super-Convergence")."""
    if at < RISE:
        return LOW + (1 - LOW) * (1 - cosine(at / RISE))
    return LOW * LAST + (1 - LOW * LAST) * cosine((at - RISE) / (1 - RISE))


def warm_restarts(at: float) -> float:
    """CYCLES cosines from 1 to 0, each twice as long as the one before; the last ends with the phase.

    Loshchilov and Hutter 2017, "SGDR: Stochastic Gradient Descent with Warm Restarts".
    """
    place, length = at * (2**CYCLES - 1), 1.0
    for _ in range(CYCLES - 1):
        if place < length:
            break
        place, length = place - length, 2 * length
    return cosine(min(1.0, place / length))
