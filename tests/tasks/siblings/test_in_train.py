"""Test images with a sibling in train, by file names and by features."""

import numpy as np
import pytest

from tasks.siblings.in_train import siblings_in_train

TRACKS = 40


@pytest.fixture(scope="module")
def world():
    """Of each of 40 tracks two images in test (the first 80 rows) and, of the first 20, two in train; and 100 more."""
    rng = np.random.default_rng(0)
    track = np.concatenate([np.repeat(np.arange(TRACKS), 2), np.repeat(np.arange(TRACKS // 2), 2)])
    centre = rng.normal(size=(TRACKS, 64))
    x = np.concatenate([centre[track] + 0.3 * rng.normal(size=(len(track), 64)), rng.normal(size=(100, 64))])
    labels = [f"c{t % 2}" for t in track] + ["c0", "c1"] * 50
    return x.astype(np.float16), track, labels


def test_features_alone_find_most_of_them(world):
    x, track, labels = world
    found = siblings_in_train(x, [None] * len(x), labels, 80)
    assert found.pattern is None
    assert not found.by_name.any()
    true = track[:80] < TRACKS // 2
    assert found.by_features[true].mean() > 0.8
    assert found.by_features[~true].mean() < 0.1


def test_names_find_all_of_them(world):
    x, track, labels = world
    names = [f"{t:03d}_{n:04d}.jpg" for n, t in enumerate([*track.tolist(), *range(900, 1000)])]
    found = siblings_in_train(x, names, labels, 80)
    assert found.pattern.template == "{group}_{*}"
    assert found.by_name.tolist() == (track[:80] < TRACKS // 2).tolist()
    assert found.found.sum() >= 40


def test_names_that_the_features_deny_count_for_nothing(world):
    x, _, labels = world
    shuffled = np.random.default_rng(1).permutation(len(x))
    names = [f"{n % 30:03d}_{n:04d}.jpg" for n in shuffled.tolist()]
    assert siblings_in_train(x, names, labels, 80).pattern is None


def test_a_few_images_have_no_siblings_to_speak_of():
    found = siblings_in_train(np.ones((4, 8), np.float16), ["a", "b", "c", "d"], ["x"] * 4, 2)
    assert not found.found.any()
