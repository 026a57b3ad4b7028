"""One array over many shards: reads a table's rows on demand from memory maps.

Training and evaluation index it like a NumPy array, although the data may exceed memory.
"""

import mmap
from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa

RESIDENT = 4 << 20  # bytes read from the maps after which their pages are given back to the system
ROWS = 256  # rows copied at a time by `read_into`


class ShardTable:
    """An (N, ...) array spread over shards, for `samples` with columns `shard` and `row` (N rows).

    `table[i]` with an int array, slice or boolean mask gives a copy of those rows. Nothing else is held in memory, so
    the array may be larger than memory. `open_map(shard)` returns the array of that shard (rows first).
    """

    def __init__(self, samples: pa.Table, open_map: Callable[[str], np.ndarray]):
        names = samples.column("shard").combine_chunks().dictionary_encode()
        shards = names.dictionary.to_pylist()
        self._rows = samples.column("row").to_numpy()
        if len(names) == 0:
            raise ValueError("ShardTable: no samples, expected at least one")
        order = sorted(range(len(shards)), key=shards.__getitem__)
        self._shard_of = np.argsort(order)[names.indices.to_numpy()].astype(np.int32)
        maps = [open_map(shards[number]) for number in order]
        self._mapped = [array.base for array in maps if isinstance(array.base, mmap.mmap)]
        self._maps = [np.asarray(array) for array in maps]  # indexing a np.memmap takes longer
        self._read = [0]  # bytes since pages were given back, of all tables of these maps
        first = self._maps[0]
        self.shape = (len(self._rows), *first.shape[1:])
        self.dtype = first.dtype

    def __len__(self) -> int:
        return len(self._rows)

    def take(self, index: np.ndarray | slice) -> "ShardTable":
        """The rows `index` (int array, slice or boolean mask) as a table of their own: nothing is read."""
        part = object.__new__(ShardTable)
        part._rows, part._shard_of = self._rows[index], self._shard_of[index]
        part._maps, part._mapped, part._read, part.dtype = self._maps, self._mapped, self._read, self.dtype
        part.shape = (len(part._rows), *self.shape[1:])
        return part

    def __getitem__(self, index) -> np.ndarray:
        rows, shard_of = self._rows[index], self._shard_of[index]
        out = np.empty((len(rows), *self.shape[1:]), self.dtype)
        self._copy(rows, shard_of, out)
        return out

    def read_into(self, part: slice, out: np.ndarray) -> None:
        """Copy the rows `part` into `out` (rows first, any type), with little more memory than `out`."""
        for start in range(part.start, part.stop, ROWS):
            here = slice(start, min(start + ROWS, part.stop))
            self._copy(self._rows[here], self._shard_of[here], out[start - part.start : here.stop - part.start])

    def _copy(self, rows: np.ndarray, shard_of: np.ndarray, out: np.ndarray) -> None:
        for number in np.unique(shard_of):
            here = np.flatnonzero(shard_of == number)
            if len(here) == len(out):
                out[:] = self._maps[number][rows]
            else:
                out[here] = self._maps[number][rows[here]]
        self._read[0] += len(out) * (self.dtype.itemsize * int(np.prod(self.shape[1:])))
        if self._read[0] > RESIDENT:
            self._give_back()

    def _give_back(self) -> None:
        """Let go of the pages of the maps: those of a whole pass over the data would add up in this process.

        The system still has them in its page cache, so the next pass finds them without reading from the disk.
        """
        self._read[0] = 0
        for mapped in self._mapped:
            if hasattr(mapped, "madvise"):
                mapped.madvise(mmap.MADV_DONTNEED)

    def batches(self, size: int) -> Iterator[tuple[slice, np.ndarray]]:
        """Yield (slice, rows) in order, `size` rows at a time."""
        for start in range(0, len(self), size):
            part = slice(start, min(start + size, len(self)))
            yield part, self[part]
