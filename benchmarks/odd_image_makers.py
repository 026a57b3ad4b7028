"""Makers of malformed and of odd but valid images, for benchmarks.odd_images."""

import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageCms, TiffImagePlugin

Maker = Callable[[np.random.Generator], bytes]


def picture(rng: np.random.Generator, mode: str = "RGB") -> Image.Image:
    """A soft image of random size, at least 16 pixels a side."""
    width, height = (int(side) for side in rng.integers(16, 160, 2))
    coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC).convert(mode)


def encoded(image: Image.Image, form: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def good(rng: np.random.Generator, form: str) -> bytes:
    return encoded(picture(rng), form)


def cut(form: str) -> Maker:
    def make(rng):
        data = good(rng, form)
        return data[: int(len(data) * rng.uniform(0.02, 0.9))]

    return make


def flipped(form: str, share: float) -> Maker:
    """Random bytes changed, after the first 16, so that the file still looks like its format."""

    def make(rng):
        data = bytearray(good(rng, form))
        for place in rng.integers(16, len(data), max(1, int(share * len(data)))):
            data[place] ^= int(rng.integers(1, 256))
        return bytes(data)

    return make


def headed(head: bytes) -> Maker:
    return lambda rng: head + rng.bytes(int(rng.integers(0, 4000)))


def fixed(data: bytes) -> Maker:
    return lambda rng: data


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(width: int, height: int, rows: bytes, depth: int = 8, colour: int = 2, more: bytes = b"") -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + more + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def text_bomb(rng) -> bytes:
    """A PNG whose compressed text unpacks to hundreds of megabytes."""
    body = b"Comment\0\0" + zlib.compress(bytes(1 << 20) * 100)
    return png(32, 32, bytes(32 * 97), more=chunk(b"zTXt", body))


def tiff_with(**tags: int) -> Maker:
    """A TIFF whose header says something else than its pixels are."""

    def make(rng):
        info = TiffImagePlugin.ImageFileDirectory_v2()
        data = bytearray(encoded(picture(rng), "TIFF", tiffinfo=info))
        for name, value in tags.items():
            wanted = struct.pack("<H", int(name.removeprefix("t")))
            place = data.find(wanted, int.from_bytes(data[4:8], "little"))
            data[place + 8 : place + 12] = struct.pack("<I", value)
        return bytes(data)

    return make


def swapped(form: str, other: bytes) -> Maker:
    """The head of another format before the body of `form`."""
    return lambda rng: other + good(rng, form)[len(other) :]


def doubled(form: str) -> Maker:
    """The middle of the file is missing."""

    def make(rng):
        data = good(rng, form)
        return data[: len(data) // 4] + data[len(data) // 2 :]

    return make


def zeroed(form: str) -> Maker:
    """A block of zeros in the file, as a disk that lost a page leaves."""

    def make(rng):
        data = bytearray(good(rng, form))
        start = int(rng.integers(16, len(data)))
        data[start : start + 4096] = bytes(len(data[start : start + 4096]))
        return bytes(data)

    return make


FORMS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "AVIF")
KINDS: dict[str, Maker] = {
    **{f"cut {form}": cut(form) for form in FORMS},
    **{f"flipped {form}": flipped(form, 0.02) for form in FORMS},
    **{f"zeroed {form}": zeroed(form) for form in ("JPEG", "PNG", "TIFF", "WEBP")},
    **{f"middle missing {form}": doubled(form) for form in ("JPEG", "PNG", "GIF", "WEBP")},
    "empty": fixed(b""),
    "one byte": lambda rng: rng.bytes(1),
    "noise": lambda rng: rng.bytes(int(rng.integers(2, 5000))),
    "JPEG head, then noise": headed(b"\xff\xd8\xff\xe0\0\x10JFIF\0"),
    "PNG head, then noise": headed(b"\x89PNG\r\n\x1a\n"),
    "TIFF head, then noise": headed(b"II*\0"),
    "HEIC head, then noise": headed(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"),
    "PNG of 4 gigapixels": fixed(png(65535, 65535, b"")),
    "PNG without rows": lambda rng: png(int(rng.integers(8, 500)), 64, b""),
    "PNG text bomb": text_bomb,
    "TIFF that says it is huge": tiff_with(t256=60000, t257=60000),
    "TIFF with strips outside the file": tiff_with(t273=1 << 30),
    "TIFF of a strange depth": tiff_with(t258=77),
    "JPEG inside a PNG": swapped("JPEG", b"\x89PNG\r\n\x1a\n"),
    "web page": fixed(b"<!DOCTYPE html><html><body>404 Not Found</body></html>"),
    "Git LFS pointer": fixed(b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 9\n"),
}


def profile(name: str) -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile(name)).tobytes()


def with_exif(rng) -> bytes:
    image = picture(rng)
    about = Image.Exif()
    about[0x0112] = int(rng.integers(0, 12))  # also orientations that do not exist
    about[0x010F] = "Maker \u00e9\u4e2d"
    return encoded(image, str(rng.choice(["JPEG", "PNG", "WEBP", "TIFF"])), exif=about)


def deep(rng) -> bytes:
    top = int(rng.choice([255, 1023, 4095, 16383, 65535]))
    values = np.asarray(picture(rng, "L"), np.float64) / 255 * top
    return encoded(Image.fromarray(values.astype(np.uint16)), str(rng.choice(["PNG", "TIFF"])))


def deep_colour(rng) -> bytes:
    width, height = 24, 16
    rows = b"".join(b"\0" + rng.bytes(width * 6) for _ in range(height))
    return png(width, height, rows, depth=16)


def floats(rng) -> bytes:
    values = np.asarray(picture(rng, "L"), np.float32) / float(rng.choice([1, 255, 0.01]))
    values[0, 0] = float(rng.choice([0, np.nan, np.inf]))
    return encoded(Image.fromarray(values), "TIFF")


def of_mode(mode: str, *forms: str) -> Maker:
    return lambda rng: encoded(picture(rng).convert(mode), str(rng.choice(forms)))


def jpeg(rng) -> bytes:
    options = {"quality": int(rng.integers(1, 100)), "subsampling": int(rng.integers(3))}
    options |= {"progressive": bool(rng.integers(2)), "optimize": bool(rng.integers(2))}
    return encoded(picture(rng, str(rng.choice(["RGB", "L", "CMYK"]))), "JPEG", **options)


def compressed_tiff(rng) -> bytes:
    kind = str(rng.choice(["raw", "tiff_lzw", "tiff_deflate", "packbits", "tiff_adobe_deflate"]))
    return encoded(picture(rng, str(rng.choice(["RGB", "L", "RGBA", "CMYK", "LAB"]))), "TIFF", compression=kind)


def fax(rng) -> bytes:
    return encoded(picture(rng, "1"), "TIFF", compression=str(rng.choice(["group3", "group4"])))


def animated(rng) -> bytes:
    first = picture(rng)
    more = [picture(rng).resize(first.size) for _ in range(3)]
    return encoded(first, str(rng.choice(["GIF", "WEBP", "PNG", "TIFF"])), save_all=True, append_images=more)


def thin(rng) -> bytes:
    sides = (8, int(rng.integers(500, 3000)))
    return encoded(picture(rng).resize(sides if rng.integers(2) else sides[::-1]), "PNG")


def padded(rng) -> bytes:
    """What cameras and messengers append: bytes after the image."""
    return good(rng, str(rng.choice(["JPEG", "PNG", "GIF", "WEBP"]))) + rng.bytes(int(rng.integers(1, 2000)))


def coloured(rng) -> bytes:
    options = {"icc_profile": profile(str(rng.choice(["sRGB", "LAB", "XYZ"])))}
    return encoded(picture(rng), str(rng.choice(["JPEG", "PNG", "WEBP", "TIFF"])), **options)


def broken_profile(rng) -> bytes:
    return encoded(picture(rng), str(rng.choice(["JPEG", "PNG", "TIFF"])), icc_profile=rng.bytes(200))


def see_through(rng) -> bytes:
    form = str(rng.choice(["PNG", "WEBP", "TIFF", "GIF"]))
    image = picture(rng).convert("RGBA")
    image.putalpha(Image.fromarray(rng.integers(0, 256, image.size[::-1], dtype=np.uint8)))
    return encoded(image, form)


def flat(rng) -> bytes:
    return encoded(Image.new("RGB", (32, 32), tuple(int(v) for v in rng.integers(0, 256, 3))), str(rng.choice(FORMS)))


ODD: dict[str, Maker] = {
    "jpeg": jpeg,
    "exif": with_exif,
    "deep grey": deep,
    "deep colour": deep_colour,
    "floats": floats,
    "palette": of_mode("P", "PNG", "GIF", "BMP", "TIFF"),
    "grey": of_mode("L", "JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM"),
    "grey and alpha": of_mode("LA", "PNG", "TIFF"),
    "one bit": of_mode("1", "PNG", "TIFF", "BMP", "PPM"),
    "tiff": compressed_tiff,
    "fax": fax,
    "animated": animated,
    "thin": thin,
    "bytes after the end": padded,
    "colour profile": coloured,
    "broken profile": broken_profile,
    "transparent": see_through,
    "one colour": flat,
    "avif": lambda rng: encoded(picture(rng), "AVIF", quality=int(rng.integers(10, 100))),
    "ppm": of_mode("RGB", "PPM"),
}
