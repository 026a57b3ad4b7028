"""Turn encoded bytes into model input: the only code that does, for training, evaluation and serving.

Decoding is bounded: only listed formats, a pixel cap checked on the header, only the first frame. Modes are converted
without losing what a person sees: 16-bit is scaled by the bits in use (not clipped), CMYK is converted,
transparency is blended over mid-grey, EXIF rotation is applied. HEIC needs the extra `heic`.
"""

import contextlib
import functools
import io

import numpy as np
from PIL import AvifImagePlugin, Image, ImageOps, UnidentifiedImageError

from tasks.common.written import LFS_ADVICE, is_lfs_pointer

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "MPO", "PPM", "AVIF", "HEIC")
OPENED = tuple(name for name in FORMATS if name not in ("MPO", "HEIC"))  # Pillow's JPEG plug-in opens MPO
SUFFIXES = {
    **{"JPEG": ".jpg", "MPO": ".jpg", "PNG": ".png", "WEBP": ".webp", "BMP": ".bmp", "TIFF": ".tif", "GIF": ".gif"},
    **{"PPM": ".ppm", "AVIF": ".avif", "HEIF": ".heic"},
}
HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx"}
NO_HEIC = "a HEIC image, which needs the extra `heic`: run `pip install pi-heif`, then try again"
GREY = (128, 128, 128)
PREPROCESS = ("resolution", "fit", "max_pixels", "bit_depth")  # of a bundle's spec, in the order of `preprocess`
MIN_SIDE = 8

Image.MAX_IMAGE_PIXELS = None  # open_image checks its own cap on the header; Pillow's default only warns
AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # callers decode many images at once; each thread reserves address space


class Undecodable(Exception):
    """The bytes are not a usable image; `reason` is one of schemas.QUARANTINE_REASONS."""

    def __init__(self, reason: str, detail: str):
        super().__init__(reason, detail)  # both, so that it can be unpickled in the parent process
        self.reason, self.detail = reason, detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


_ARCHIVES = (b"PK\x03\x04", b"\x1f\x8b", b"BZh", b"7z\xbc\xaf", b"Rar!", b"\xfd7zXZ", b"(\xb5/\xfd")


def open_image(data: bytes, max_pixels: int) -> Image.Image:
    """Open the image in `data`: reads the header, decodes no pixels yet. Raises Undecodable."""
    if not data:
        raise Undecodable("empty_file", "0 bytes")
    if data.startswith(_ARCHIVES):
        raise Undecodable("archive", "this is an archive, not an image: unpack it first")
    if is_lfs_pointer(data):
        raise Undecodable("unknown_format", LFS_ADVICE)
    heic = _is_heic(data)
    if heic and not _can_open_heic():
        raise Undecodable("unknown_format", NO_HEIC)
    try:
        image = Image.open(io.BytesIO(data), formats=("HEIF",) if heic else OPENED)
    except Exception as error:  # Pillow plug-ins raise many types for broken headers
        # Pillow's text contains the buffer's address, so the reports of two runs would differ
        about = "" if isinstance(error, UnidentifiedImageError) else f": {error}"
        raise Undecodable("unknown_format", f"expected one of {', '.join(FORMATS)}{about}") from None
    if image.mode.startswith("I"):
        image.info["bit_depth"] = file_depth(image, data)
    width, height = image.size
    if width * height > max_pixels:
        raise Undecodable("too_many_pixels", f"{width} x {height} is over images.max_pixels = {max_pixels}")
    if min(width, height) < MIN_SIDE:
        raise Undecodable("too_small", f"{width} x {height} pixels, expected at least {MIN_SIDE} x {MIN_SIDE}")
    return image


def _is_heic(data: bytes) -> bool:
    """Does the header say HEVC in a HEIF container? The first brand may be a general one, before a list of others."""
    brands = {data[at : at + 4] for at in (8, *range(16, min(int.from_bytes(data[:4]), 128), 4))}
    return data[4:8] == b"ftyp" and not brands.isdisjoint(HEIC_BRANDS)


@functools.cache
def _can_open_heic() -> bool:
    """Make Pillow read HEIC, if the extra is installed."""
    try:
        import pi_heif
    except ImportError:
        return False
    pi_heif.register_heif_opener(thumbnails=False, decode_threads=1)
    return True


def file_suffix(data: bytes) -> str:
    """The suffix that files with the image `data` have, such as ".jpg"; ".bin" if it is not a known image."""
    with contextlib.suppress(Undecodable):
        return SUFFIXES.get(str(open_image(data, 1 << 62).format), ".bin")
    return ".bin"


def decode(data: bytes, max_pixels: int, bit_depth: int | None = None) -> Image.Image:
    """Fully decode `data` to an upright RGB (or L, for grey images) image. Raises Undecodable."""
    return upright(load(open_image(data, max_pixels)), bit_depth)


def load(image: Image.Image) -> Image.Image:
    """Decode the first frame of `image` completely. Raises Undecodable."""
    try:
        image.load()
    except Exception as error:  # of many types, as in open_image: OSError, SyntaxError, ValueError, struct.error, ...
        short = "truncated" in str(error) or "Truncated" in str(error) or "not enough" in str(error)
        raise Undecodable("truncated" if short else "undecodable", str(error)) from None
    return image


def file_depth(image: Image.Image, data: bytes) -> int | None:
    """How many bits a 16-bit image uses, if its file says so: TIFF's tags, the chunk sBIT of PNG."""
    if image.format == "PPM":
        return 16  # Pillow scales by the largest value that the header names
    found = None
    with contextlib.suppress(Exception):  # a broken header says nothing
        if image.format == "PNG" and (at := data.find(b"sBIT", 8, 1024)) > 0:
            found = data[at + 4]
        elif image.format == "TIFF":
            tags = image.tag_v2
            top = next((int(np.max(tags[tag])) for tag in (341, 281) if tag in tags), 0)  # (S)MaxSampleValue
            bits = int(np.max(tags.get(258, 16)))
            found = top.bit_length() if 255 < top < 65535 else bits if bits != 16 else None
    return found if found is not None and 8 <= found <= 16 else None


def upright(image: Image.Image, bit_depth: int | None = None) -> Image.Image:
    """`image` as a viewer shows it: EXIF rotation applied, 8 bit, mode L or RGB. bit_depth: as images.bit_depth."""
    declared = bit_depth or image.info.get("bit_depth")
    with contextlib.suppress(Exception):  # an image with a broken EXIF block is still usable
        image = ImageOps.exif_transpose(image)
    if image.mode in ("L", "RGB"):
        return image
    if image.mode == "1":
        return image.convert("L")
    if image.mode.startswith("I") or image.mode == "F":  # 16 or 32 bit: scale, because convert() would clip at 255
        return _eight_bits(np.array(image, dtype=np.float32), image.mode == "F", declared)
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        ground = Image.new("RGBA", rgba.size, (*GREY, 255))
        return Image.alpha_composite(ground, rgba).convert("RGB")
    return image.convert("RGB")


def _eight_bits(values: np.ndarray, floats: bool, bit_depth: int | None) -> Image.Image:
    """`values`, (H, W) float32, as an image of 8 bits; the array is changed.

    Whole numbers are scaled by a depth, not by their own maximum: otherwise a dark image looks like a bright one.
    Floats are taken as 0..1 or 0..255; only what fits neither is stretched from its smallest to its largest value.
    """
    np.nan_to_num(values, copy=False, nan=0.0, posinf=0.0, neginf=0.0)
    low, high = float(values.min(initial=0)), float(values.max(initial=0))
    if floats:
        low, top = (0.0, 1.0 if high <= 1 else 255.0) if low >= 0 and high <= 255 else (low, high - low)
    elif low >= 0 and high <= 65535:
        low, top = 0.0, 2.0 ** (bit_depth or max(8.0, np.ceil(2 * np.log2(high + 1)) / 2)) - 1  # in half bits
    else:
        top = high - low
    values -= low
    values *= 255.0 / top  # in place: a copy of 50 megapixels is 200 MB
    np.round(values, out=values)
    return Image.fromarray(np.clip(values, 0, 255, out=values).astype(np.uint8))


def resize(image: Image.Image, size: int, fit: str) -> np.ndarray:
    """Upright `image` as (size, size, 3) uint8. `fit` is images.fit; bicubic, antialiased.

    `reducing_gap` lets Pillow shrink by an integer box first. That is several times faster on photos, and the
    result differs from the plain filter by less than JPEG noise.
    """
    if fit == "crop":
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        box = (left, top, left + side, top + side)
    else:
        box = (0, 0, *image.size)
    target = (size, size)
    if fit == "pad":
        scale = size / max(image.size)
        target = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    small = image.resize(target, Image.Resampling.BICUBIC, box=box, reducing_gap=3.0).convert("RGB")
    if fit == "pad":
        ground = Image.new("RGB", (size, size), GREY)
        ground.paste(small, ((size - target[0]) // 2, (size - target[1]) // 2))
        small = ground
    return np.asarray(small)


def preprocess(data: bytes, size: int, fit: str, max_pixels: int, bit_depth: int | None = None) -> np.ndarray:
    """Encoded bytes -> model input (size, size, 3) uint8. Raises Undecodable.

    This is all preprocessing outside the network: its graph does the scaling and normalising.
    """
    return resize(decode(data, max_pixels, bit_depth), size, fit)
