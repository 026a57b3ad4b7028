"""The 64 odd images on which every export must answer as the model it was made from.

They are what arrives in practice besides plain photos: rotated by EXIF, CMYK, grey, 16-bit, palettes, transparency,
progressive, animated, very thin, very small, one colour, and noise. All are drawn from fixed seeds, so that each export
of a version sees the same ones.
"""

import functools
import io
from collections.abc import Iterator

import numpy as np
from PIL import Image

IMAGES = 64
FLAT = [(0, 0, 0), (255, 255, 255), (255, 0, 0), (0, 255, 0), (0, 0, 255), (1, 1, 1), (254, 254, 254), (128, 128, 128)]
SHAPES = [(8, 8), (9, 400), (400, 9), (33, 31), (1600, 1200), (640, 480), (17, 255), (300, 299), (1000, 12), (64, 64)]


@functools.cache
def odd_images() -> tuple[tuple[str, bytes], ...]:
    """(what it is, encoded image) of IMAGES images, always the same."""
    found = tuple(_images())
    assert len(found) == IMAGES, len(found)
    return found


def _images() -> Iterator[tuple[str, bytes]]:
    for turn in range(1, 9):
        about = Image.Exif()
        about[0x0112] = turn
        yield f"JPEG with EXIF rotation {turn}", _encoded(_picture(turn), "JPEG", exif=about)
    for number, quality in enumerate((1, 20, 50, 75, 95, 100)):
        options = {"quality": quality, "progressive": bool(number % 2), "subsampling": number % 3}
        yield f"JPEG of quality {quality}", _encoded(_picture(10 + number), "JPEG", **options)
    for number, mode in enumerate(("L", "CMYK")):
        yield f"JPEG in mode {mode}", _encoded(_picture(20 + number).convert(mode), "JPEG")
    for number, mode in enumerate(("1", "L", "LA", "P", "RGB", "RGBA")):
        yield f"PNG in mode {mode}", _encoded(_picture(30 + number, mode), "PNG")
    for number, mode in enumerate(("1", "L", "CMYK", "LAB", "RGBA", "RGB")):
        yield f"TIFF in mode {mode}", _encoded(_picture(40 + number, mode), "TIFF", compression="tiff_deflate")
    for number, top in enumerate((255, 1023, 4095, 65535)):
        for form in ("PNG", "TIFF"):
            grey = _picture(50 + number + 4 * (form == "TIFF"), "L")
            deep = (np.asarray(grey, np.float64) / 255 * top).astype(np.uint16)
            yield f"16-bit {form} up to {top}", _encoded(Image.fromarray(deep), form)
    first, *more = (_picture(60 + number, size=(90, 60)) for number in range(3))
    for form in ("GIF", "WEBP", "PNG"):
        yield f"animated {form}", _encoded(first, form, save_all=True, append_images=more)
    yield "lossless WEBP", _encoded(_picture(70, "RGBA"), "WEBP", lossless=True)
    yield "BMP", _encoded(_picture(71), "BMP")
    yield "PPM", _encoded(_picture(72), "PPM")
    yield "GIF", _encoded(_picture(73, "P"), "GIF")
    for number, size in enumerate(SHAPES):
        yield f"PNG of {size[0]} x {size[1]} pixels", _encoded(_picture(80 + number, size=size), "PNG")
    for colour in FLAT:
        yield f"PNG of the one colour {colour}", _encoded(Image.new("RGB", (96, 64), colour), "PNG")
    board = np.indices((128, 128)).sum(axis=0) % 2 * 255
    yield "chequered PNG", _encoded(Image.fromarray(board.astype(np.uint8)), "PNG")
    noise = np.random.default_rng(90).integers(0, 256, (128, 128, 3), np.uint8)
    yield "PNG of noise", _encoded(Image.fromarray(noise), "PNG")
    ramp = np.linspace(0, 255, 256).astype(np.uint8)
    yield "PNG of a ramp", _encoded(Image.fromarray(np.broadcast_to(ramp, (200, 256)).copy()), "PNG")


def _picture(seed: int, mode: str = "RGB", size: tuple[int, int] | None = None) -> Image.Image:
    """A soft picture of many colours; 24 to 239 pixels a side unless `size` says otherwise."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (7, 7, 3), dtype=np.uint8))
    drawn = coarse.resize(size or tuple(int(side) for side in rng.integers(24, 240, 2)), Image.Resampling.BICUBIC)
    if mode == "LAB":
        from PIL import ImageCms

        profiles = (ImageCms.createProfile(name) for name in ("sRGB", "LAB"))
        drawn = ImageCms.profileToProfile(drawn, *profiles, outputMode="LAB")
        drawn.info.pop("icc_profile")  # contains the time
        return drawn
    if mode in ("LA", "RGBA"):
        drawn.putalpha(coarse.convert("L").resize(drawn.size))
    return drawn.convert(mode)


def _encoded(image: Image.Image, form: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()
