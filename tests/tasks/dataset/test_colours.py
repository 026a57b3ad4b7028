"""Images of other colour spaces and depths look to the model as they look to a person."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from tasks.dataset.decode import decode
from tests.support.photos import encode

CAP = 1_000_000
COLOURS = np.array([[220, 40, 40], [40, 200, 40], [40, 40, 200], [128, 128, 128]], np.uint8)
SEEN = Image.fromarray(np.repeat(np.repeat(COLOURS.reshape(2, 2, 3), 16, 0), 16, 1))


def deep_rgb(image: Image.Image) -> bytes:
    """A PNG of 16 bits per channel, which Pillow cannot write."""
    pixels = np.asarray(image).astype(np.uint16) * 257
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", *image.size, 16, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def lab(image: Image.Image) -> bytes:
    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    return encode(ImageCms.applyTransform(image, ImageCms.buildTransform(*profiles, "RGB", "LAB")), "TIFF")


def turned(image: Image.Image) -> bytes:
    about = Image.Exif()
    about[0x0112] = 6
    return encode(image.transpose(Image.Transpose.ROTATE_90), "PNG", exif=about)


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (deep_rgb(SEEN), 0),
        (encode(SEEN.convert("CMYK"), "TIFF"), 2),
        (encode(SEEN.convert("CMYK"), "JPEG", quality=95), 8),
        (lab(SEEN), 6),
        (turned(SEEN), 0),
        (encode(SEEN.convert("RGBA"), "TIFF"), 0),
    ],
    ids=["16 bit RGB", "CMYK TIFF", "CMYK JPEG", "LAB", "EXIF", "RGBA TIFF"],
)
def test_colours_are_those_that_people_see(data, error):
    found = np.asarray(decode(data, CAP).convert("RGB"), int)
    assert np.abs(found - np.asarray(SEEN, int)).mean() <= error
