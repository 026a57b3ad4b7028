"""Near-duplicate search against brute force, on copies of photos, and on look-alike products."""

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tasks.common.params import InspectParams
from tasks.inspection.measure import measure
from tasks.inspection.near_duplicates import clusters, near_pairs, near_pairs_between
from tests.support.checkout import ROOT
from tests.support.photos import cutouts, encode

DEFAULTS = InspectParams()


def alike(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """n hashes and thumbnails of which many are a few bits and grey levels apart."""
    centres = rng.integers(0, 2**64, max(1, n // 8), dtype=np.uint64)
    greys = rng.integers(40, 200, (len(centres), 256))
    of = rng.integers(0, len(centres), n)
    phash = centres[of]
    for _ in range(6):  # flip up to six bits
        flip = np.uint64(1) << rng.integers(0, 64, n, dtype=np.uint64)
        phash = np.where(rng.random(n) < 0.25, phash ^ flip, phash)
    thumbs = greys[of] + rng.integers(0, 6, (n, 1)) * rng.choice([-1, 1], (n, 256))
    thumbs[:, 0], thumbs[:, 1] = np.divmod(np.arange(n), 256)  # no two are identical
    return phash, thumbs.astype(np.uint8)


def brute(phash, thumbs, old_phash, old_thumbs, bits, difference) -> np.ndarray:
    """(N, M) bool."""
    near = np.bitwise_count(phash[:, None] ^ old_phash[None]) <= bits
    return near & (np.abs(thumbs[:, None].astype(int) - old_thumbs[None]).mean(axis=2) <= difference)


@pytest.mark.parametrize("bits", range(8))
def test_finds_the_same_pairs_as_comparing_all_pairs(bits):
    rng = np.random.default_rng(bits)
    phash, thumbs = alike(rng, 300)
    for difference in (1.5, 3.0, 255.0):
        everything = np.argwhere(np.triu(brute(phash, thumbs, phash, thumbs, bits, difference), 1))
        assert np.array_equal(near_pairs(phash, thumbs, bits, difference), everything)
        old_phash, old_thumbs = phash[100:], thumbs[100:]
        across = np.argwhere(brute(phash[:100], thumbs[:100], old_phash, old_thumbs, bits, difference))
        found = near_pairs_between(phash[:100], thumbs[:100], old_phash, old_thumbs, bits, difference)
        assert np.array_equal(found, across)
    assert len(everything) > 20


def test_identical_images_are_paired_with_the_first_only():
    phash, thumbs = np.zeros(5000, np.uint64), np.zeros((5000, 256), np.uint8)
    phash[7] = 1
    pairs = near_pairs(phash, thumbs, 4, 4.0)
    assert len(pairs) == 4999
    assert set(pairs[:, 0]) == {0}
    assert not clusters(5000, pairs).any()
    found = near_pairs_between(phash[:3], thumbs[:3], phash, thumbs, 4, 4.0)
    assert found.tolist() == [[0, 0], [0, 7], [1, 0], [1, 7], [2, 0], [2, 7]]


def test_zero_images_and_one():
    none, no_thumbs = np.empty(0, np.uint64), np.empty((0, 256), np.uint8)
    one, a_thumb = np.ones(1, np.uint64), np.ones((1, 256), np.uint8)
    assert near_pairs(none, no_thumbs, 4, 4.0).shape == (0, 2)
    assert near_pairs(one, a_thumb, 4, 4.0).shape == (0, 2)
    assert near_pairs_between(one, a_thumb, none, no_thumbs, 4, 4.0).shape == (0, 2)
    assert near_pairs_between(none, no_thumbs, one, a_thumb, 4, 4.0).shape == (0, 2)
    assert near_pairs_between(one, a_thumb, one, a_thumb, 0, 0.0).tolist() == [[0, 0]]


def test_clusters_are_the_connected_components():
    pairs = np.array([[1, 2], [5, 6], [2, 9], [0, 8], [4, 9], [6, 7]])
    assert clusters(10, pairs).tolist() == [0, 1, 1, 3, 1, 5, 5, 5, 0, 1]
    chain = np.stack([np.arange(999), np.arange(1, 1000)], axis=1)
    shuffled = np.random.default_rng(0).permutation(1000)
    assert len(np.unique(clusters(1000, np.sort(shuffled[chain], axis=1)))) == 1
    assert clusters(3, np.empty((0, 2), np.int64)).tolist() == [0, 1, 2]


def fingerprints(images: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
    found = [measure(data, 50_000_000) for data in images]
    return np.array([f.phash for f in found], np.uint64), np.stack(
        [np.frombuffer(f.thumbnail, np.uint8) for f in found]
    )


def trimmed(image: Image.Image, pixels: int) -> Image.Image:
    return image.crop((pixels, pixels, image.width - pixels, image.height - pixels))


COPIES = {  # how an image is copied, and the share of copies that must be found
    "as another file": (lambda i: encode(i, "WEBP", quality=80), 0.95),
    "as a poor JPEG": (lambda i: encode(i, "JPEG", quality=40), 0.9),
    "half as large": (lambda i: encode(i.resize((i.width // 2, i.height // 2)), "JPEG"), 0.9),
    "twice as large": (lambda i: encode(i.resize((i.width * 2, i.height * 2))), 0.9),
    "in grey": (lambda i: encode(i.convert("L")), 0.95),
    "with its edge cut off": (lambda i: encode(trimmed(i, 2)), 0.6),
}


@pytest.mark.parametrize("copy", COPIES)
def test_copies_of_photos_are_found_and_other_photos_are_not(copy):
    make, least = COPIES[copy]
    originals = cutouts(30)
    phash, thumbs = fingerprints([encode(image) for image in originals] + [make(image) for image in originals])
    pairs = near_pairs(phash, thumbs, DEFAULTS.near_duplicate_bits, DEFAULTS.near_duplicate_difference)
    right = pairs[:, 1] - pairs[:, 0] == 30
    assert right.sum() >= least * 30
    assert right.all()


def test_look_alike_products_do_not_chain():
    """Clothes on black, 28 x 28: of 3,000 at most one in a hundred is called a near-duplicate (some really are)."""
    base = ROOT / "datasets" / "fashion" / "base.parquet"
    images = [row["bytes"] for row in pq.read_table(base, columns=["image"]).column("image").to_pylist()[:3000]]
    phash, thumbs = fingerprints(images)
    pairs = near_pairs(phash, thumbs, DEFAULTS.near_duplicate_bits, DEFAULTS.near_duplicate_difference)
    sizes = np.bincount(clusters(len(images), pairs))
    assert sizes[sizes > 1].sum() <= 0.01 * len(images)
    assert sizes.max() <= 10
