"""Schema of a bundle's reference.parquet: the held-out samples against which drift is measured."""

import io

import numpy as np
import pyarrow as pa
from PIL import Image

from tasks.common.schemas import MEASURES, label_type

THUMBNAIL = 64  # pixels


def schema(task: str) -> pa.Schema:
    return pa.schema(
        [
            ("id", pa.string()),
            ("split", pa.string()),  # calibration | test
            ("label", label_type(task)),
            ("features", pa.list_(pa.float32())),  # (D,)
            ("probabilities", pa.list_(pa.float32())),  # (K,) in class order
            ("ood", pa.float32()),
            *MEASURES,
            ("thumbnail", pa.binary()),  # JPEG of the model's input, at most THUMBNAIL pixels
        ]
    )


def thumbnail(pixels: np.ndarray) -> bytes:
    """(S, S, 3) uint8 as a JPEG of at most THUMBNAIL pixels a side."""
    image = Image.fromarray(pixels)
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()
