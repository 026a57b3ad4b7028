"""One array over many shards: reads a table's rows on demand from memory maps.

Training and evaluation index it like a NumPy array, although the data may exceed memory.
"""

from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa


class ShardTable:
    """An (N, ...) array spread over shards, for `samples` with columns `shard` and `row` (N rows).

    `table[i]` with an int array, slice or boolean mask gives a copy of those rows. Nothing else is held in memory, so
    the array may be larger than memory. `open_map(shard)` returns the array of that shard (rows first).
    """

    def __init__(self, samples: pa.Table, open_map: Callable[[str], np.ndarray]):
        names = np.asarray(samples.column("shard").to_pylist(), dtype=object)
        self._rows = samples.column("row").to_numpy()
        if len(names) == 0:
            raise ValueError("ShardTable: no samples, expected at least one")
        shards, self._shard_of = np.unique(names.astype(str), return_inverse=True)
        self._maps = [open_map(str(shard)) for shard in shards]
        first = self._maps[0]
        self.shape = (len(self._rows), *first.shape[1:])
        self.dtype = first.dtype

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index) -> np.ndarray:
        index = np.arange(len(self))[index]
        out = np.empty((len(index), *self.shape[1:]), self.dtype)
        shard_of = self._shard_of[index]
        for number in np.unique(shard_of):
            here = np.flatnonzero(shard_of == number)
            out[here] = self._maps[number][self._rows[index[here]]]
        return out

    def batches(self, size: int) -> Iterator[tuple[slice, np.ndarray]]:
        """Yield (slice, rows) in order, `size` rows at a time."""
        for start in range(0, len(self), size):
            part = slice(start, min(start + size, len(self)))
            yield part, self[part]
