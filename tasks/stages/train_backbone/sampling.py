"""Which images make up the batches of an epoch."""

import math

import numpy as np

from tasks.common.params import TrainBackboneParams


def batch_order(rows: int, params: TrainBackboneParams, epoch: int) -> list[np.ndarray]:
    """A permutation of `rows` in batches whose sizes differ by at most one: no batch is too small for BatchNorm."""
    order = np.random.default_rng([params.seed, epoch]).permutation(rows)
    return np.array_split(order, math.ceil(rows / params.batch_size))
