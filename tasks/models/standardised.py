"""Features in float32, standardised, a few rows at a time.

N samples, D feature dimensions. Features lie on disk in half precision and may exceed memory. Every pass over them
reads, converts and scales them again, unless they are few.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from tasks.dataset.shard_table import ShardTable

Features = np.ndarray | ShardTable  # (N, D)

ROWS = 256  # a chunk: 1.3 MB at D = 1280, which a core's cache holds between converting and multiplying
IN_MEMORY = 32 << 20  # bytes; up to this size standardised features stay in memory, others are made in each pass
FLOOR = 0.3  # of the median deviation
TOP = 65_536  # above all numbers of half precision


class Standardised:
    """(x - mean) / deviation in float32: kept in memory if it fits, else computed again in each pass."""

    def __init__(self, x: Features, mean: np.ndarray, deviation: np.ndarray):
        self.x, self.mean, self.deviation, self.scale = x, mean, deviation, 1 / deviation
        fits = x.shape[0] * x.shape[1] * 4 <= IN_MEMORY
        self.held = [(part, rows.copy()) for part, rows in self._stream(range(self.count))] if fits else None

    @property
    def count(self) -> int:
        """The number of chunks."""
        return -(-len(self.x) // ROWS)

    def _stream(self, numbers: range) -> Iterator[tuple[slice, np.ndarray]]:
        for part, rows in chunks(self.x, numbers):
            rows -= self.mean
            rows *= self.scale
            yield part, rows

    def chunks(self, numbers: range | None = None) -> Sequence | Iterator[tuple[slice, np.ndarray]]:
        """(slice, its rows) of the chunks `numbers` (default: all), in order; the next may overwrite the rows."""
        numbers = range(self.count) if numbers is None else numbers
        return self._stream(numbers) if self.held is None else self.held[numbers.start : numbers.stop]


def standardised(x: Features) -> Standardised:
    """`x` (N, D) by the means and deviations of its own rows."""
    return Standardised(x, *moments(x))


def some(x: Features, rows: np.ndarray) -> Features:
    """The rows `rows` (int array or boolean mask) of `x`; of a table on disk nothing is read."""
    return x.take(rows) if isinstance(x, ShardTable) else x[rows]


def chunks(x: Features, numbers: range | None = None, size: int | None = None) -> Iterator[tuple[slice, np.ndarray]]:
    """(slice, float32 copy) of the chunks `numbers` (default: all) of `size` rows (default: ROWS), in order.

    One array is used for all of them.
    """
    size = size or ROWS
    shape = (min(size, len(x)), x.shape[1])
    buffer = np.empty(shape, np.float32)
    half = np.empty(shape, np.float16) if isinstance(x, ShardTable) and x.dtype == np.float16 else None
    for number in range(-(-len(x) // size)) if numbers is None else numbers:
        part = slice(number * size, min((number + 1) * size, len(x)))
        rows = buffer[: part.stop - part.start]
        if half is not None:
            x.read_into(part, half[: len(rows)])
            _widen(half[: len(rows)], rows)
        elif isinstance(x, ShardTable):
            x.read_into(part, rows)
        elif x.dtype == np.float16:
            _widen(x[part], rows)
        else:
            rows[:] = x[part]
        yield part, rows


def _widen(half: np.ndarray, out: np.ndarray) -> None:
    """`out[:] = half` for half precision, a quarter of numpy's time: shift the bits, then scale the exponent."""
    bits = out.view(np.int32)
    bits[:] = half.view(np.int16)
    bits <<= 13
    bits &= np.int32(-0x70002000)  # the sign, 5 bits of exponent, 10 bits of fraction
    out *= np.float32(2.0**112)  # the two formats' exponents start at different places
    if not -TOP < out.min(initial=0) <= out.max(initial=0) < TOP:  # what was infinite or NaN
        out[:] = half


def moments(x: Features) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation, (D,) float32 each.

    The deviation has a floor: a feature that is almost constant here may vary elsewhere, and its weight would be huge.
    """
    total = np.zeros(x.shape[1])
    square = np.zeros(x.shape[1])
    for _, rows in chunks(x):
        wide = rows.astype(np.float64)
        total += wide.sum(axis=0)
        square += np.einsum("nd,nd->d", wide, wide)
    mean = total / len(x)
    deviation = np.sqrt(np.maximum(square / len(x) - mean**2, 0))
    deviation = np.maximum(deviation, FLOOR * np.median(deviation))
    deviation[deviation < 1e-6] = 1  # constant features
    return mean.astype(np.float32), deviation.astype(np.float32)
