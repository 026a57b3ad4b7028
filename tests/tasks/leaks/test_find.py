"""Copies of held-out images are found by their pixels, whatever was done to them; other images are not."""

import functools

import numpy as np
import pytest

from benchmarks.leak_kinds import KINDS, copy_of
from tasks.dataset.decode import preprocess
from tasks.leaks import find
from tasks.leaks.align import prepare, similarity
from tasks.leaks.find import LEAST_Z, UNUSUAL, find_copies, limit, own_limits
from tests.support.photos import encode, photo

PHOTOS = ("china", "flower")

EASY = (
    "jpeg",
    "webp",
    "resize",
    "crop 80-95 %",
    "crop 50-80 %",
    "mirror",
    "turned 90",
    "rotated 5-15",
    "grey",
    "border",
)


@functools.cache
def photos() -> list[bytes]:
    """24 places of two photos that share nothing, without plain sky."""
    places = [
        photo(name).crop((x, y, x + 90, y + 90)) for name in PHOTOS for x in range(0, 540, 90) for y in (90, 180, 270)
    ]
    return [encode(image) for image in sorted(places, key=lambda image: -np.std(image))[:24]]


def pixels(images: list[bytes]) -> np.ndarray:
    return np.stack([preprocess(data, 64, "squash", 10**8) for data in images])


def features(x: np.ndarray) -> np.ndarray:
    """What stands in for pretrained features: colours, and their places only coarsely."""
    small = x.reshape(len(x), 4, 16, 4, 16, 3).mean(axis=(2, 4)).reshape(len(x), -1)
    return np.concatenate([small, x.reshape(len(x), -1, 3).std(axis=1)], axis=1).astype(np.float16)


@pytest.mark.parametrize("kind", EASY)
def test_a_copy_agrees_in_detail_and_another_photo_does_not(kind):
    originals = photos()[:4]
    a, b = prepare(pixels(originals)), prepare(pixels([copy_of(data, kind, n) for n, data in enumerate(originals)]))
    rows = np.arange(4)
    assert similarity(a, rows, b, rows).min() > LEAST_Z
    assert similarity(a, rows, b, np.roll(rows, 1)).max() < LEAST_Z
    assert similarity(b, rows, a, rows).min() > LEAST_Z  # either may be the part


def test_copies_of_held_out_images_are_found_among_others(monkeypatch):
    held, train = photos()[:6], photos()[6:]
    kinds = [kind for kind in KINDS if kind in EASY]
    copies = [copy_of(held[n % 6], kind, n) for n, kind in enumerate(kinds)]
    x, held_x = pixels(train + copies), pixels(held)
    arguments = (features(x), x.__getitem__, features(held_x), held_x.__getitem__)
    found = find_copies(*arguments)
    pairs = {tuple(pair) for pair in found.pairs[found.copies].tolist()}
    planted = {(len(train) + n, n % 6) for n in range(len(copies))}
    assert pairs <= planted
    assert len(pairs) >= len(planted) - 1
    # a second search with what was measured reads only the held-out images, and finds the same
    read: list[int] = []
    arguments = (arguments[0], lambda rows: (read.extend(rows), x[rows])[1], *arguments[2:])
    same(find_copies(*arguments, found.looks, found.compared), found)
    assert not read
    # so do searches that know a part of it, and of images that are gone: a search depends on its own images alone
    looks = found.looks.copy()
    looks[-1], looks[:, 2] = np.nan, np.nan
    some = {(t, h): z for (t, h), z in found.compared.items() if t != len(x) - 1 and h != 2}
    extra = {(t, h): 2.0 for t in range(3) for h in range(6) if (t, h) not in found.compared}
    assert extra
    looked: list[int] = []
    agreement = find.agreement
    monkeypatch.setattr(find, "agreement", lambda a, b: (looked.append(len(a) * len(b)), agreement(a, b))[1])
    same(find_copies(*arguments, looks, some | extra), found)
    # a pair is looked at both ways: those of the new image, and the other images' with the new held-out one
    assert sum(looked) == 2 * (6 + len(x) - 1)


def same(a: find.Found, b: find.Found) -> None:
    assert np.array_equal(a.pairs, b.pairs)
    assert np.allclose(a.z, b.z, atol=1e-4)
    assert np.allclose(a.least, b.least, atol=1e-4)
    assert np.allclose(a.looks, b.looks, atol=1e-3)
    assert np.array_equal(a.copies, b.copies)
    assert a.compared.keys() == b.compared.keys()


def test_where_all_images_look_alike_a_copy_must_agree_more():
    rng = np.random.default_rng(0)
    apart, alike = rng.normal(0.2, 0.05, 300), rng.normal(0.8, 0.2, 300)
    assert limit(apart) == LEAST_Z
    assert limit(alike) == pytest.approx(np.quantile(alike, UNUSUAL))
    assert limit(np.empty(0)) == LEAST_Z
    # one held-out image has look-alikes, the other has none; a few candidates say nothing
    z = np.array([*np.linspace(0.8, 1.6, 20), 2.4, *np.linspace(0.0, 0.4, 20), 1.2, 0.9])
    held = np.repeat([0, 1, 2], [21, 21, 1])
    assert (z >= np.maximum(own_limits(held, z), LEAST_Z)).nonzero()[0].tolist() == [20, 41, 42]


def test_new_images_leave_most_of_the_usual_pairs_as_they_were():
    x = np.random.default_rng(0).normal(size=(2100, 8)).astype(np.float16)
    drawn = find._drawn(x[100:])
    assert len(set(drawn.tolist())) == find.COMMON
    assert len(set(drawn + 100) & set(find._drawn(x).tolist())) > 0.9 * find.COMMON


def test_a_set_without_copies_denies_nothing():
    held, train = pixels(photos()[:6]), pixels(photos()[6:])
    found = find_copies(features(train), train.__getitem__, features(held), held.__getitem__)
    assert found.z.max() < 0 or not found.copies.any(), (np.sort(found.z)[-4:], found.least)
    assert find.NEAREST >= 2
