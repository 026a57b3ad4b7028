"""Measures of one image, and of many images in child processes that may die."""

import os
import signal
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pytest
from PIL import Image

import tasks.inspection.measure
from tasks.common.files import sha256_bytes
from tasks.common.params import ImagesParams, InspectParams
from tasks.common.schemas import MEASURES, QUARANTINE_REASONS, sample_schema
from tasks.dataset import shards
from tasks.dataset.decode import Undecodable, decode
from tasks.inspection.measure import MEMORY_PER_PIXEL, Measured, measure, measure_all, perceptual_hash
from tasks.inspection.measures import measures_table, shard_measures, store_measures, thumbnails
from tasks.inspection.sandbox import Crashed, sandboxed_map
from tests.support.bad_input import hears_ctrl_c
from tests.support.checkout import ROOT
from tests.support.photos import HEIC, cutouts, encode, photo
from tests.support.unruly import die_if_told, fail, measure_and_peak, spin_if_told, take_memory

CAP = 50_000_000
ONE = InspectParams(workers=1)


def rotated(image: Image.Image, orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def palette_with_hole() -> bytes:
    image = photo().resize((64, 48)).quantize(32)
    return encode(image, "PNG", transparency=0)


def sixteen_bit() -> Image.Image:
    grey = np.asarray(photo().convert("L"), np.uint16)
    return Image.fromarray(grey * np.uint16(257))


SQUARE = photo().crop((0, 0, 300, 200))
KINDS = {
    "jpeg": (encode(SQUARE, "JPEG", quality=90), ("JPEG", "RGB", 300, 200, 1)),
    "progressive": (encode(SQUARE, "JPEG", quality=90, progressive=True), ("JPEG", "RGB", 300, 200, 1)),
    "grey jpeg": (encode(SQUARE.convert("L"), "JPEG"), ("JPEG", "L", 300, 200, 1)),
    "turned jpeg": (encode(SQUARE, "JPEG", exif=rotated(SQUARE, 6)), ("JPEG", "RGB", 200, 300, 6)),
    "turned png": (encode(SQUARE, "PNG", exif=rotated(SQUARE, 3)), ("PNG", "RGB", 300, 200, 3)),
    "turned tiff": (encode(SQUARE, "TIFF", exif=rotated(SQUARE, 8)), ("TIFF", "RGB", 200, 300, 8)),
    "cmyk jpeg": (encode(SQUARE.convert("CMYK"), "JPEG"), ("JPEG", "CMYK", 300, 200, 1)),
    "16 bit png": (encode(sixteen_bit()), ("PNG", "I;16", 640, 427, 1)),
    "palette png": (palette_with_hole(), ("PNG", "P", 64, 48, 1)),
    "rgba png": (encode(SQUARE.convert("RGBA")), ("PNG", "RGBA", 300, 200, 1)),
    "1 bit png": (encode(SQUARE.convert("1")), ("PNG", "1", 300, 200, 1)),
    "webp": (encode(SQUARE, "WEBP", quality=90), ("WEBP", "RGB", 300, 200, 1)),
    "gif": (encode(SQUARE, "GIF", save_all=True, append_images=[SQUARE.rotate(90)]), ("GIF", "P", 300, 200, 1)),
    "avif": (encode(SQUARE, "AVIF"), ("AVIF", "RGB", 300, 200, 1)),
    "heic": (HEIC, ("HEIF", "RGB", 64, 96, 1)),  # the reader has turned it already
    "8 x 8": (encode(SQUARE.resize((8, 8))), ("PNG", "RGB", 8, 8, 1)),
    "strip": (encode(SQUARE.resize((3000, 9))), ("PNG", "RGB", 3000, 9, 1)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_file_is_described_as_stored_and_measured_as_the_model_sees_it(kind):
    data, expected = KINDS[kind]
    found = measure(data, CAP)
    assert (found.format, found.mode, found.width, found.height, found.exif_orientation) == expected
    seen = decode(data, CAP)
    assert (found.width, found.height) == seen.size
    luma = np.asarray(seen.convert("L"), np.float64)
    assert found.brightness == pytest.approx(luma.mean(), abs=1.5)
    grey = np.asarray(seen.convert("L").resize((16, 16), Image.Resampling.BOX), float)
    if kind not in ("8 x 8", "strip"):  # enlarged or squeezed by other filters there
        assert np.abs(np.frombuffer(found.thumbnail, np.uint8).reshape(16, 16) - grey).mean() < 4


def test_figures_of_known_pictures():
    half = np.zeros((64, 64), np.uint8)
    half[32:] = 255
    found = measure(encode(Image.fromarray(half)), CAP)
    assert (found.brightness, found.contrast, found.entropy) == (127.5, 127.5, 1.0)
    assert found.sharpness == pytest.approx(2 * 255**2 / 62)  # two of 62 rows have a Laplacian of +-255
    flat = measure(encode(Image.new("L", (64, 64), 77)), CAP)
    assert (flat.brightness, flat.contrast, flat.entropy, flat.sharpness) == (77, 0, 0, 0)
    assert flat.thumbnail == bytes([77] * 256)
    assert flat.phash == measure(encode(Image.new("L", (500, 300), 200)), CAP).phash  # no noise bits


def test_blur_costs_sharpness_and_size_does_not():
    from PIL import ImageFilter

    large = photo().resize((1280, 854))
    sharp, blurred = (
        measure(encode(image), CAP).sharpness for image in (large, large.filter(ImageFilter.GaussianBlur(12)))
    )
    assert blurred < sharp / 4
    assert measure(encode(photo().resize((2560, 1708))), CAP).sharpness == pytest.approx(sharp, rel=0.2)


def test_a_large_jpeg_is_reduced_while_it_is_decoded_and_measured_like_its_pixels():
    large = photo().resize((1283, 857))
    data = encode(large, "JPEG", quality=95)
    found, pixels = measure(data, CAP), measure(encode(decode(data, CAP)), CAP)
    assert (found.width, found.height) == (1283, 857)
    assert (found.phash ^ pixels.phash).bit_count() <= 2  # rounding may move the two bits at the median
    assert found.brightness == pytest.approx(pixels.brightness, abs=0.5)
    assert found.contrast == pytest.approx(pixels.contrast, rel=0.01)
    assert found.sharpness == pytest.approx(pixels.sharpness, rel=0.1)
    with pytest.raises(Undecodable, match="truncated"):
        measure(data[: len(data) * 9 // 10], CAP)


def test_hash_is_the_median_split_of_the_low_dct_frequencies():
    from scipy.fft import dctn

    grey = np.stack([np.asarray(image.convert("L").resize((32, 32)), np.float32) for image in cutouts(12)])
    found = perceptual_hash(grey)
    for image, value in zip(grey, found, strict=True):
        low = dctn(image.astype(np.float64), type=2)[:8, :8].ravel()
        expected = low > np.median(low)
        bits = (value >> np.arange(64, dtype=np.uint64)) & np.uint64(1)
        assert np.count_nonzero(bits != expected) <= 2  # float32, rounded: at most the two at the median
    assert len(np.unique(found)) == len(found)


def bomb(width: int, height: int) -> bytes:
    """A PNG whose header says width x height, with almost no data."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 1000)))
    parts = [struct.pack(">I", len(d)) + kind + d + struct.pack(">I", zlib.crc32(kind + d)) for kind, d in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


JPEG = encode(photo(), "JPEG", quality=90)
REFUSED = {
    "empty_file": b"",
    "unknown_format": b"not an image at all",
    "archive": b"PK\x03\x04" + b"\0" * 100,
    "truncated": JPEG[: len(JPEG) // 2],
    "too_many_pixels": bomb(60_000, 60_000),
    "too_small": encode(photo().resize((7, 40))),
    "undecodable": JPEG[:1000] + b"\xff\xc0" * 50 + JPEG[1100:],
}


@pytest.mark.parametrize("reason", REFUSED)
def test_refused_with_a_reason_of_the_closed_list(reason):
    with pytest.raises(Undecodable) as caught:
        measure(REFUSED[reason], CAP)
    assert caught.value.reason == reason
    assert reason in QUARANTINE_REASONS


@pytest.mark.parametrize("workers", [1, 2])
def test_child_processes_return_the_same_measures_in_order(workers):
    good = [encode(image, "JPEG", quality=q) for image in cutouts(10) for q in (60, 90)]
    items = [*good[:7], REFUSED["truncated"], *good[7:], b""]
    found = list(measure_all(items, CAP, workers))
    assert [f.reason for f in (found[7], found[-1])] == ["truncated", "empty_file"]
    assert found[:7] + found[8:-1] == [measure(data, CAP) for data in good]


def test_input_is_read_only_a_little_ahead():
    taken = []

    def endless():
        data = encode(Image.new("L", (16, 16)))
        while True:
            taken.append(1)
            yield data

    results = measure_all(endless(), CAP, 1)
    assert isinstance(next(results), Measured)
    assert len(taken) < 500
    results.close()


def test_a_dying_child_costs_exactly_the_image_that_killed_it():
    items = [b"x" * (n % 50 + 4) for n in range(300)]
    items[70] = items[299] = b"die"
    found = list(sandboxed_map(die_if_told, items, workers=2, memory=1 << 30))
    assert [n for n, result in enumerate(found) if isinstance(result, Crashed)] == [70, 299]
    assert all(result == len(item) for result, item in zip(found, items, strict=True) if item != b"die")


def test_a_spinning_decoder_is_ended_by_its_cpu_time():
    found = list(sandboxed_map(spin_if_told, [b"a", b"spin", b"b"], workers=1, memory=1 << 30, seconds=0.2))
    assert [found[0], found[2]] == [b"a", b"b"]
    assert isinstance(found[1], Crashed)


def test_ctrl_c_reaches_the_parent_and_not_its_children():
    """Otherwise it would interrupt a child during an import or an answer.

    Runs in a fresh process, because whatever starts before the first child changes the signal mask too.
    """
    code = (
        "import signal\n"
        "from tasks.inspection.sandbox import sandboxed_map\n"
        "from tests.support.unruly import blocks_sigint\n"
        "found = list(sandboxed_map(blocks_sigint, [b'x' * (1 << 20)] * 8, workers=2, memory=1 << 30))\n"
        "print(found.count(True), signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ()))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "8 False\n", done.stderr


def test_ctrl_c_ends_busy_children_without_output(tmp_path):
    code = (
        "import sys\n"
        "from tasks.inspection.sandbox import sandboxed_map\n"
        "from tests.support.unruly import spin_once_there\n"
        "try: list(sandboxed_map(spin_once_there, [sys.argv[1].encode()], workers=1, memory=1 << 30))\n"
        "except KeyboardInterrupt: print('interrupted')"
    )
    started = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "pid")],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=hears_ctrl_c,
        start_new_session=True,  # a terminal sends the signal to the whole group
    )
    while not (tmp_path / "pid").is_file():
        assert started.poll() is None, started.communicate()
        time.sleep(0.01)
    child = psutil.Process(int((tmp_path / "pid").read_text()))
    os.killpg(started.pid, signal.SIGINT)
    said, complained = started.communicate(timeout=120)
    assert said == "interrupted\n"
    assert "Traceback" not in complained
    assert not child.is_running()


def test_memory_beyond_the_limit_is_refused_and_the_rest_goes_on():
    found = list(sandboxed_map(take_memory, [b"1000", b"3000000000", b"2000"], workers=1, memory=1 << 29))
    assert [found[0], found[2]] == [1000, 2000]
    assert "memory" in found[1].detail


def test_an_exception_of_the_function_is_raised_in_the_parent():
    with pytest.raises(ValueError, match="a bug, at b'x'"):
        list(sandboxed_map(fail, [b"x"], workers=1, memory=1 << 30))


def test_the_largest_allowed_images_are_measured_under_a_gigabyte():
    wide = np.zeros((7000, 7000), np.uint16)
    wide[::2] = 40_000
    items = [
        encode(Image.new("RGBA", (7000, 7000), (9, 99, 199, 50)), compress_level=1),
        encode(Image.new("RGB", (7000, 7000), (9, 99, 199)), "JPEG", progressive=True),
        encode(Image.fromarray(wide), compress_level=1),  # scaled by way of float32
        bomb(60_000, 60_000),
    ]
    found = list(sandboxed_map(measure_and_peak, items, workers=1, memory=MEMORY_PER_PIXEL * CAP))
    assert [mode for mode, _ in found] == ["RGBA", "RGB", "I;16", "too_many_pixels"]
    assert all(peak < 1 << 30 for _, peak in found)


def test_an_image_that_needs_more_than_its_child_may_take_is_quarantined(monkeypatch):
    monkeypatch.setattr(tasks.inspection.measure, "LEAST_MEMORY", 64 << 20)
    monkeypatch.setattr(tasks.inspection.measure, "MEMORY_PER_PIXEL", 2)
    large = encode(Image.new("RGB", (5000, 5000)), compress_level=1)
    before, refused, after = measure_all([JPEG, large, JPEG], 25_000_000, 1)
    assert isinstance(before, Measured)
    assert before == after
    assert refused.reason == "decoder_crashed"


@pytest.fixture
def project(tmp_path) -> tuple[Path, str]:
    """A project of one shard with six images, one of them half a JPEG, and the shard's name."""
    data = [encode(image, "JPEG") for image in cutouts(5)] + [REFUSED["truncated"]]
    rows = {name: [None] * len(data) for name in sample_schema("multiclass").names}
    rows |= {"id": [sha256_bytes(d) for d in data], "image": [{"bytes": d, "path": None} for d in data]}
    table = pa.table(rows, schema=sample_schema("multiclass"))
    return tmp_path, shards.write_shard(tmp_path / "data", table, "multiclass")


def test_a_shard_is_measured_row_by_row_and_never_decoded_again(project):
    root, name = project
    first = shard_measures(root, name, ImagesParams(), ONE)
    assert first.column_names == ["id", *[field.name for field in MEASURES], "thumbnail", "status"]
    assert first["status"].to_pylist() == ["ok"] * 5 + ["truncated"]
    assert first["phash"].null_count == 1
    assert thumbnails(first["thumbnail"]).shape == (6, 256)
    assert not thumbnails(first["thumbnail"])[5].any()
    # a changed cache entry is returned as it is, so nothing was decoded
    dimmed = first.set_column(first.column_names.index("brightness"), "brightness", pa.array([1.5] * 6, pa.float32()))
    store_measures(root, name, ImagesParams(), dimmed)
    assert shard_measures(root, name, ImagesParams(), ONE)["brightness"].to_pylist() == [1.5] * 6


def test_a_torn_or_foreign_cache_entry_is_measured_again(project):
    root, name = project
    first = shard_measures(root, name, ImagesParams(), ONE)
    (file,) = (root / ".evergreen" / "cache" / "inspect").rglob("*.parquet")
    whole = file.read_bytes()
    for content in (whole[: len(whole) // 2], b"", whole[:300] + b"\0" * 300 + whole[600:]):
        file.unlink()
        file.write_bytes(content)
        assert shard_measures(root, name, ImagesParams(), ONE).equals(first)
    store_measures(root, name, ImagesParams(), first.slice(1))
    assert shard_measures(root, name, ImagesParams(), ONE).equals(first)


def test_another_pixel_cap_is_another_entry(project):
    root, name = project
    shard_measures(root, name, ImagesParams(), ONE)
    small = shard_measures(root, name, ImagesParams(max_pixels=1000), ONE)
    assert small["status"].to_pylist() == ["too_many_pixels"] * 6
    assert shard_measures(root, name, ImagesParams(), ONE)["status"].to_pylist()[0] == "ok"


def test_a_table_needs_a_result_for_every_id():
    with pytest.raises(ValueError, match="2 ids but only 1 measured"):
        measures_table(["a", "b"], [Undecodable("truncated", "")])
    assert measures_table([], []).num_rows == 0
