"""L-BFGS for several smooth convex problems that share each evaluation.

M problems of P parameters each, in single precision. Each problem has its own steps and its own memory of curvature
(Nocedal and Wright 2006, algorithm 7.4), so the others do not change its path. An evaluation that reads all training
rows serves every problem that is still at work. numpy only: importing scipy.optimize takes longer than most fits.
"""

from collections import deque
from collections.abc import Callable, Generator, Sequence

import numpy as np

MEMORY = 10  # pairs of (step, change of gradient) that a problem keeps
DECREASE = 1e-4  # share of the promised decrease that a step must bring (Armijo)
SHORTER = 0.1  # a step is at most shortened to this share at once
TRIES = 10  # shorter steps, before a problem ends where it is

Evaluate = Callable[[np.ndarray, Sequence[int]], tuple[np.ndarray, np.ndarray]]
# (points (A, P), numbers of their problems) -> (values (A,), gradients (A, P))


def minimise(evaluate: Evaluate, starts: np.ndarray, iterations: int, tolerance: float) -> np.ndarray:
    """Points of low value, (M, P) float32, after at most `iterations` steps from each of `starts` (M, P).

    A problem ends when a step lowers its value by no more than `tolerance`, relative to the value or 1.
    """
    points = np.array(starts, np.float32)
    if iterations < 1:
        return points
    searches = {number: _search(point, iterations, tolerance) for number, point in enumerate(points)}
    trials = {number: next(search) for number, search in searches.items()}
    while trials:
        numbers = list(trials)
        values, gradients = evaluate(np.stack([trials[number] for number in numbers]), numbers)
        for number, value, gradient in zip(numbers, values, gradients, strict=True):
            try:
                trials[number] = searches[number].send((float(value), gradient))
            except StopIteration as end:
                points[number] = end.value
                del trials[number]
    return points


def _search(
    point: np.ndarray, iterations: int, tolerance: float
) -> Generator[np.ndarray, tuple[float, np.ndarray], np.ndarray]:
    """Yields the points (P,) to evaluate, is sent (value, gradient) of each, and returns the best."""
    value, gradient = yield point
    known: deque = deque(maxlen=MEMORY)
    for _ in range(iterations):
        direction = _direction(gradient, known)
        slope = float(direction @ gradient)
        if not slope < 0:  # at the optimum, or as close as single precision comes
            return point
        step = 1.0 if known else (-slope) ** -0.5  # of length 1 while nothing is known of the curvature
        for _ in range(TRIES):
            trial = point + np.float32(step) * direction
            found, of_trial = yield trial
            if found <= value + DECREASE * step * slope:
                break
            step *= float(np.clip(-slope * step / (2 * (found - value - slope * step)), SHORTER, 0.5))
        else:
            return point
        moved, turned = trial - point, of_trial - gradient
        if (curvature := float(moved @ turned)) > 0:
            known.append((moved, turned, curvature))
        gained = value - found
        point, value, gradient = trial, found, of_trial
        if gained <= tolerance * max(abs(value), abs(value + gained), 1):
            return point
    return point


def _direction(gradient: np.ndarray, known: Sequence[tuple[np.ndarray, np.ndarray, float]]) -> np.ndarray:
    """Minus the inverse Hessian, as `known` tells it, times `gradient` (P,): the two-loop recursion."""
    direction = -gradient
    taken = []
    for moved, turned, curvature in reversed(known):
        share = np.float32(float(moved @ direction) / curvature)
        direction -= share * turned
        taken.append(share)
    if known:
        _, turned, curvature = known[-1]
        direction *= np.float32(curvature / float(turned @ turned))
    for (moved, turned, curvature), share in zip(known, reversed(taken), strict=True):
        direction += (share - np.float32(float(turned @ direction) / curvature)) * moved
    return direction
