"""Measure an image in one decode: size, mode, EXIF, light, sharpness, perceptual hash.

N is the number of images. Light and sharpness are computed from a box-reduced luma of at most 256 x 256 pixels. That
costs a fraction of the decode and is comparable between photos of any size. JPEG is reduced as far as possible during
decoding: the decoder reads every coefficient, so a truncated file is found, but does not compute every pixel.

Perceptual hash: signs of the 8 x 8 lowest frequencies of the DCT-II of a 32 x 32 grey image against their
median (C. Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions", 2010).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image
from PIL.Image import Resampling

from tasks.dataset.decode import Undecodable, load, open_image, upright
from tasks.inspection.sandbox import Crashed, sandboxed_map

LUMA_SIDE = 256  # pixels; larger images are box-reduced to at most this before they are measured
JPEG_SCALES = (1, 2, 4, 8)  # factors by which the JPEG decoder can reduce
MEMORY_PER_PIXEL = 20  # bytes; WebP takes the most. With the default pixel cap a child process stays under 1 GB
LEAST_MEMORY = 256 << 20  # bytes; for metadata and the decoders' own tables
ORIENTATION = 0x0112  # EXIF tag


@dataclass(frozen=True, slots=True)
class Measured:
    """The measures of one image (schemas.MEASURES) and its thumbnail."""

    format: str
    mode: str
    width: int  # upright, pixels
    height: int
    exif_orientation: int
    brightness: float
    contrast: float
    sharpness: float
    entropy: float
    phash: int
    thumbnail: bytes  # (16, 16) luma, row by row


def measure(data: bytes, max_pixels: int, bit_depth: int | None = None) -> Measured:
    """Decode `data` once, completely, and measure it. Raises Undecodable."""
    image = open_image(data, max_pixels)
    form, mode = str(image.format), image.mode
    # read the tag before and after loading: loading turns a TIFF upright, and PNG may store EXIF after the pixels
    before = 1 if form == "PNG" else _orientation(image)
    full = image.size
    if mode == "RGB" and form in ("JPEG", "MPO"):
        scale = max(scale for scale in JPEG_SCALES if scale <= min(_factors(full)))
        image.draft("L", (full[0] // scale, full[1] // scale))  # JPEG stores luma: no need to compute colours
    load(image)
    turned = _orientation(image)
    width, height = full if turned < 5 else full[::-1]
    luma = _luma(image, full, bit_depth)
    brightness, contrast, entropy = _light(luma)
    grey = np.asarray(luma.resize((32, 32), Resampling.BILINEAR), np.float32)
    thumbnail = np.round(grey.reshape(16, 2, 16, 2).mean(axis=(1, 3))).astype(np.uint8)
    return Measured(
        format=form,
        mode=mode,
        width=width,
        height=height,
        exif_orientation=before if before != 1 else turned,
        brightness=brightness,
        contrast=contrast,
        sharpness=_sharpness(np.asarray(luma)),
        entropy=entropy,
        phash=int(perceptual_hash(grey[None])[0]),
        thumbnail=thumbnail.tobytes(),
    )


def _orientation(image: Image.Image) -> int:
    """EXIF orientation 1..8; 1 where it is absent or unreadable."""
    try:
        value = image.getexif().get(ORIENTATION, 1)
    except Exception:  # an image with a broken EXIF block is still usable (see decode.upright)
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _luma(image: Image.Image, full: tuple[int, int], bit_depth: int | None) -> Image.Image:
    """Upright luma, at most LUMA_SIDE per side, of an image of size `full`, decoded at that size or smaller."""
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    if image.mode in ("L", "LA", "RGB", "RGBA", "CMYK", "YCbCr"):  # average first: then fewer pixels are converted
        return upright(_reduce(image, full)).convert("L")
    image = upright(image, bit_depth).convert("L")
    return _reduce(image, image.size)


def _reduce(image: Image.Image, full: tuple[int, int]) -> Image.Image:
    """Box-average each axis by its own factor, so that the result is bounded for every aspect ratio."""
    factors = _factors(full)
    if image.size != full:
        return image.resize([-(-side // factor) for side, factor in zip(full, factors, strict=True)], Resampling.BOX)
    return image if factors == (1, 1) else image.reduce(factors)


def _factors(size: tuple[int, int]) -> tuple[int, int]:
    return -(-size[0] // LUMA_SIDE), -(-size[1] // LUMA_SIDE)


_LEVELS = np.arange(256, dtype=np.float64)


def _light(luma: Image.Image) -> tuple[float, float, float]:
    """Mean, standard deviation (of 255) and entropy (bits) of the luma histogram."""
    share = np.asarray(luma.histogram(), np.float64) / (luma.width * luma.height)
    mean = float(share @ _LEVELS)
    variance = float(share @ (_LEVELS - mean) ** 2)
    used = share[share > 0]
    return mean, variance**0.5, max(0.0, float(-(used @ np.log2(used))))


def _sharpness(luma: np.ndarray) -> float:
    """Variance of the 4-neighbour Laplacian of (H, W) uint8."""
    y = luma.astype(np.int16)
    laplacian = y[1:-1, :-2] + y[1:-1, 2:] + y[:-2, 1:-1] + y[2:, 1:-1] - 4 * y[1:-1, 1:-1]
    values = laplacian.astype(np.float64).ravel()  # integers: both sums are exact
    return float(values @ values / values.size - values.mean() ** 2)


def _dct_rows(n: int, frequencies: int) -> np.ndarray:
    """(frequencies, n): the first rows of the DCT-II matrix."""
    k, x = np.arange(frequencies)[:, None], np.arange(n)[None]
    return np.cos(np.pi * k * (2 * x + 1) / (2 * n)).astype(np.float32)


_DCT = _dct_rows(32, 8)
_BITS = np.uint64(1) << np.arange(64, dtype=np.uint64)


def perceptual_hash(grey: np.ndarray) -> np.ndarray:
    """(N, 32, 32) luma in 0..255 -> (N,) uint64; near-duplicates differ in few bits."""
    low = (_DCT @ grey.astype(np.float32, copy=False) @ _DCT.T).reshape(len(grey), 64)
    low = np.round(low)  # an image of one colour gets exact zeros instead of rounding noise: equal hashes
    middle = np.partition(low, (31, 32), axis=1)[:, 31:33].mean(axis=1, keepdims=True)
    return ((low > middle) * _BITS).sum(axis=1, dtype=np.uint64)


def measure_all(
    items: Iterable[bytes], max_pixels: int, workers: int, bit_depth: int | None = None
) -> Iterator[Measured | Undecodable]:
    """Yield `measure` of each item, in order, from child processes; reads `items` only a little ahead.

    The pixel cap bounds the memory of a child. If a child dies, only the image that killed it is lost (reason
    decoder_crashed).
    """
    memory = max(LEAST_MEMORY, MEMORY_PER_PIXEL * max_pixels)
    for result in sandboxed_map(_Measure(max_pixels, bit_depth), items, workers=workers, memory=memory):
        if isinstance(result, Measured):
            yield result
        elif isinstance(result, Crashed):
            yield Undecodable("decoder_crashed", result.detail)
        else:
            yield Undecodable(*result)


@dataclass(frozen=True)
class _Measure:
    """The function that child processes run; returns refusals as plain (reason, detail)."""

    max_pixels: int
    bit_depth: int | None

    def __call__(self, data: bytes) -> Measured | tuple[str, str]:
        try:
            return measure(data, self.max_pixels, self.bit_depth)
        except Undecodable as error:
            if isinstance(error.__context__, MemoryError):
                raise MemoryError from None
            return error.reason, error.detail
