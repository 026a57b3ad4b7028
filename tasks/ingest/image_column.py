"""The column `image` of a shard, filled image by image in memory that is reused for the next rows.

Fresh memory is the largest cost of taking photos after decoding them, because the system clears every page it hands
out.
"""

import numpy as np
import pyarrow as pa

from tasks.common.schemas import sample_schema

TYPE = sample_schema("multiclass").field("image").type
FIRST_BYTES = 1 << 20


class ImageColumn:
    """Encoded images and their paths, one part of a shard at a time.

    The images of all parts lie in one buffer, which grows to the size of the largest part. The array of an earlier
    part is invalid once the next part is being filled.
    """

    def __init__(self):
        self._buffer = np.empty(FIRST_BYTES, np.uint8)
        self.clear()

    def append(self, encoded: bytes, path: str | None) -> int:
        """Add a row; returns its size in bytes."""
        start, end = self._ends[-1], self._ends[-1] + len(encoded)
        if end > len(self._buffer):
            grown = np.empty(2 * end, np.uint8)
            grown[:start] = self._buffer[:start]
            self._buffer = grown
        self._buffer[start:end] = np.frombuffer(encoded, np.uint8)
        self._ends.append(end)
        self._paths.append(path)
        return len(encoded)

    def array(self) -> pa.StructArray:
        """The rows since the last `clear`, without a copy of their bytes."""
        buffers = [None, pa.py_buffer(np.asarray(self._ends, np.int32)), pa.py_buffer(self._buffer)]
        encoded = pa.Array.from_buffers(pa.binary(), len(self._paths), buffers)
        return pa.StructArray.from_arrays([encoded, pa.array(self._paths, pa.string())], fields=list(TYPE))

    def clear(self) -> None:
        """Start the next part."""
        self._ends, self._paths = [0], []
