"""Class names as they are compared: in one form of Unicode."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def composed(labels: pa.ChunkedArray) -> pa.ChunkedArray:
    """`labels` (N,), strings or lists of them, in Unicode's form NFC: earlier ingests took the form as it came."""
    if pa.types.is_string(labels.type):
        return pc.utf8_normalize(labels, "NFC")
    whole = labels.combine_chunks()
    values = pc.utf8_normalize(whole.flatten(), "NFC")
    lengths = pc.fill_null(pc.list_value_length(whole), 0).to_numpy()
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
    mask = pc.is_null(whole) if whole.null_count else None
    return pa.chunked_array([pa.ListArray.from_arrays(offsets, values, type=labels.type, mask=mask)])
