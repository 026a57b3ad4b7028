"""Tensors of KServe's protocol, in JSON: images and texts.

N images, H x W pixels, B bytes.
"""

import io
from itertools import chain
from typing import Any

import numpy as np

from serving.service.problems import Problem
from serving.service.reading import from_base64
from serving.service.settings import Settings

DEEPEST = 4  # dimensions of a tensor


def read_encoded(tensor: dict, settings: Settings) -> list[bytes]:
    """The encoded images of the input `image`; pixels become lossless PNG."""
    if tensor.get("datatype") == "BYTES":
        return [from_base64(text, settings.max_bytes) for text in read_texts(tensor, None, settings.max_images)]
    if tensor.get("datatype") != "UINT8":
        raise Problem("bad_request", f"datatype {str(tensor.get('datatype'))[:20]!r}: expected BYTES or UINT8")
    shape = _shape(tensor)
    try:
        values = np.frombuffer(_numbers(tensor.get("data")), np.uint8).reshape(shape)
    except ValueError:
        raise Problem("bad_request", f"data: expected {shape} whole numbers from 0 to 255") from None
    if values.ndim == 1:
        return [values.tobytes()]
    pixels = values[None] if values.ndim == 3 else values
    if pixels.ndim != 4 or pixels.shape[3] != 3 or 0 in pixels.shape:
        raise Problem("bad_request", f"shape {shape}: expected [B], [H, W, 3] or [N, H, W, 3]")
    if len(pixels) > settings.max_images:
        raise Problem("too_many_images", f"{len(pixels)} images in one request, {settings.max_images} is the limit")
    return [_png(one) for one in pixels]


def _numbers(data: Any) -> bytes:
    """The numbers in a list, or in lists of lists. Raises ValueError for any that is not one from 0 to 255.

    numpy would take texts in the list as well, and one long text makes an array as wide in every row.
    """
    if not isinstance(data, list):
        raise ValueError
    for _ in range(DEEPEST - 1):
        if set(map(type, data)) != {list}:
            break
        data = list(chain.from_iterable(data))
    if set(map(type, data)) != {int}:
        raise ValueError
    return bytes(data)


def _png(pixels: np.ndarray) -> bytes:
    """(H, W, 3) uint8 as PNG."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _shape(tensor: dict) -> list[int]:
    shape = tensor.get("shape")
    if not isinstance(shape, list) or not shape or len(shape) > DEEPEST:
        raise Problem("bad_request", f"shape: expected a list of 1 to {DEEPEST} numbers")
    if not all(type(one) is int and 0 < one < 1 << 31 for one in shape):
        raise Problem("bad_request", f"shape {str(shape)[:60]}: expected numbers above 0")
    return shape


def read_texts(tensor: dict, count: int | None, most: int | None = None) -> list[str]:
    """The strings of a BYTES [N] tensor. count: what N must be; most: what it may be."""
    data, shape = tensor.get("data"), _shape(tensor)
    size = int(np.prod(shape, dtype=object))
    if most is not None and size > most:
        raise Problem("too_many_images", f"{size} images in one request, {most} is the limit")
    if isinstance(data, list) and len(data) == 1 and isinstance(data[0], list):
        (data,) = data
    if tensor.get("datatype") != "BYTES" or not isinstance(data, list) or len(data) != size:
        raise Problem("bad_request", f"{tensor['name']}: expected BYTES with as many strings as shape {shape} says")
    if not all(isinstance(one, str) for one in data) or count not in (None, size):
        raise Problem("bad_request", f"{tensor['name']}: expected a string for each of the {count or size} images")
    return data
