"""HEIC and AVIF are read like other formats; without the extra, HEIC is refused with its remedy."""

import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from tasks.dataset.decode import Undecodable, decode, file_suffix, preprocess
from tasks.inspection.measure import Measured, measure_all
from tests.support.checkout import ROOT
from tests.support.ingesting import image, noise, samples, take
from tests.support.photos import HEIC, encode, photo

CAP = 1_000_000


def test_heic_is_upright_and_has_its_colours():
    red, blue = decode(HEIC, CAP).getpixel((32, 4)), decode(HEIC, CAP).getpixel((32, 92))
    assert red[0] > 200 > 100 > red[2]
    assert blue[2] > 200 > 100 > blue[0]
    assert preprocess(HEIC, 48, "crop", CAP).shape == (48, 48, 3)


def test_avif_has_its_pixels():
    seen = np.asarray(decode(encode(photo(), "AVIF", quality=90), CAP), int)
    assert np.abs(seen - np.asarray(photo(), int)).mean() < 4


def test_both_are_taken_into_the_data_set_by_decoding_processes(tmp_path):
    for name, data in (("a.heic", HEIC), ("b.avif", encode(noise(1), "AVIF")), ("c.HEIC", HEIC[:300])):
        image(tmp_path / "s", f"cat/{name}", data)
    report = take(tmp_path, tmp_path / "s")
    assert sorted(row["image"]["path"] for row in samples(tmp_path)) == ["cat/a.heic", "cat/b.avif"]
    assert [refused.where for refused in report.quarantined] == ["cat/c.HEIC"]
    assert all(isinstance(found, Measured) for found in measure_all([HEIC, encode(noise(1), "AVIF")], CAP, 2))


def test_headers_that_name_other_videos_are_not_heic():
    with pytest.raises(Undecodable, match="unknown_format: expected one of"):
        decode(b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + bytes(100), CAP)


def test_without_the_extra_heic_is_refused_with_its_remedy():
    code = (
        "import sys; sys.modules['pi_heif'] = None\n"  # an import of it then fails
        "from tasks.dataset.decode import open_image\n"
        "from tests.support.photos import HEIC\n"
        "open_image(HEIC, 10**6)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert "unknown_format: a HEIC image, which needs the extra `heic`: run `pip install pi-heif`" in done.stderr


@pytest.mark.parametrize(
    ("kind", "suffix"), [("JPEG", ".jpg"), ("PNG", ".png"), ("TIFF", ".tif"), ("PPM", ".ppm"), ("AVIF", ".avif")]
)
def test_a_file_gets_the_suffix_of_its_format(kind, suffix):
    assert file_suffix(encode(noise(1), kind)) == suffix
    assert file_suffix(HEIC) == ".heic"
    assert file_suffix(b"no image") == ".bin"


def deep(top: int, form: str, **options) -> bytes:
    return encode(Image.fromarray((np.linspace(0, 1, 4096).reshape(64, 64) * top).astype(np.uint16)), form, **options)


def shades(data: bytes, bit_depth: int | None = None) -> np.ndarray:
    return np.asarray(decode(data, CAP, bit_depth)).astype(int)


@pytest.mark.parametrize(("top", "bits"), [(255, 8), (1023, 10), (4095, 12), (16383, 14), (65535, 16)])
@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_images_of_10_to_16_bits_keep_their_grey_levels(top, bits, form):
    found = shades(deep(top, form))
    assert (found.min(), found.max(), len(np.unique(found))) == (0, 255, 256)
    assert (found == shades(deep(top, form), bits)).all()


def test_brightness_does_not_jump_where_a_value_needs_one_bit_more():
    assert 0.6 < shades(deep(256, "PNG")).mean() / shades(deep(255, "PNG")).mean() <= 1


def test_a_declared_depth_keeps_a_dark_image_dark_and_the_file_says_it_too():
    assert shades(deep(1023, "PNG"), 12).max() == 64
    assert shades(deep(1023, "TIFF", tiffinfo={281: 4095})).max() == 64
    png = deep(1023, "PNG")
    chunk = b"\0\0\0\x01sBIT\x0c"
    assert shades(png[:33] + chunk + zlib.crc32(chunk[4:]).to_bytes(4) + png[33:]).max() == 64


def test_floats_are_not_stretched_by_their_own_maximum_and_nan_is_black():
    half = np.full((16, 16), 0.5, np.float32)
    half[0] = np.nan
    half[1] = np.inf
    assert np.unique(shades(encode(Image.fromarray(half), "TIFF"))).tolist() == [0, 128]
    assert np.unique(shades(encode(Image.fromarray(np.full((16, 16), 100, np.float32)), "TIFF"))).tolist() == [100]
