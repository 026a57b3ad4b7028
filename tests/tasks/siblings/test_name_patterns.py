"""Groups in file names: found where images agree with the names, and only there."""

import numpy as np
import pytest

from tasks.siblings.alike import measure_alikeness, thumbnail_features
from tasks.siblings.name_patterns import group_keys, has_candidates, propose_layout
from tasks.sources.layouts import parse_layout

CLASSES, TRACKS, VIEWS = 4, 12, 4


@pytest.fixture(scope="module")
def world():
    """(class, track, view) of each image, and features in which images of one track are alike."""
    rng = np.random.default_rng(0)
    of = np.array([(c, t, v) for c in range(CLASSES) for t in range(TRACKS) for v in range(VIEWS)])
    centre = rng.normal(size=(CLASSES, 1, 32)) * 2 + rng.normal(size=(CLASSES, TRACKS, 32))
    return of, centre[of[:, 0], of[:, 1]] + 0.5 * rng.normal(size=(len(of), 32))


def proposed(world, name, label="c{c}", features=None):
    """The template proposed for paths written as `name`, with the fields c, t, v, n (a counter) and r (random)."""
    of, alike = world
    rng = np.random.default_rng(1)
    counter = rng.permutation(len(of))
    fields = [
        {"c": c, "t": t, "v": v, "n": counter[n], "r": rng.bytes(8).hex(), "k": CLASSES * t + c}
        for n, (c, t, v) in enumerate(of.tolist())
    ]
    found = propose_layout(
        [name.format(**row) for row in fields],
        [label.format(**row) for row in fields],
        alike if features is None else features,
    )
    return found and found.template


@pytest.mark.parametrize(
    ("name", "template"),
    [
        ("c{c}/{t:05d}_{v:05d}.ppm", "{class+group}/{group}_{*}"),  # tracks are counted per class
        ("c{c}/{k:05d}_{v:05d}.ppm", "{class}/{group}_{*}"),  # and here over all classes
        ("c{c}/{v:05d}_{k:05d}.ppm", "{class}/{*}_{group}"),
        ("c{c}/cam2_2024-05-03_{k:04d}_{v}.jpg", "{class}/cam{group}_{*}"),
        ("c{c}/P{k:03d}V{v}.jpg", "{class}/P{group}V{*}"),
        ("c{c}/{k}/{n}.jpg", "{class}/{group}/{*}"),
        ("session {k}/c{c}/{v}.jpg", "{group}/{class}/{*}"),
        ("all/{{{k}}} {n}.jpg", "{*}/{{{group}}} {*}"),
        ("train/c{c}/{k}-{n}.jpg", "{*}/{class}/{group}-{*}"),
    ],
)
def test_the_part_that_names_the_track_is_found_in_any_place(world, name, template):
    assert proposed(world, name) == template


@pytest.mark.parametrize(
    "name", ["c{c}/IMG_{n:04d}.jpg", "c{c}/c{c} ({n}).jpg", "c{c}/{r}.jpg", "{n:05d}.png", "c{c}/{r}-{r}.jpg"]
)
def test_counters_and_random_names_have_no_candidate(world, name):
    assert proposed(world, name) is None


@pytest.mark.parametrize("name", ["c{c}/{t:05d}_{v:05d}.ppm", "c{c}/cam{v}_{k}.jpg", "{t}/c{c}/{n}.jpg"])
def test_names_that_the_images_do_not_bear_out_propose_nothing(world, name):
    features = np.random.default_rng(2).normal(size=(CLASSES * TRACKS * VIEWS, 8))
    assert proposed(world, name, features=features) is None


def test_a_coarser_part_counts_only_if_it_adds_pairs_that_are_alike(world):
    """Days hold several tracks; only the images of one track are alike."""
    of, features = world
    paths = [f"c{c}/2024-05-{t // 2 + 1:02d}_{CLASSES * t + c:03d}_{v}.jpg" for c, t, v in of.tolist()]
    labels = [f"c{c}" for c in of[:, 0]]
    assert propose_layout(paths, labels, features).template == "{class}/{group}_{*}"
    assert len(set(group_keys(parse_layout("{class}/{group}_{*}"), paths))) == CLASSES * TRACKS
    same_day = features + 4 * np.random.default_rng(3).normal(size=(6, 32))[of[:, 1] // 2]
    assert propose_layout(paths, labels, same_day).template == "{class}/{group}_{*}_{*}"


def test_a_pattern_that_a_tenth_of_the_names_lacks_is_not_proposed(world):
    """A layout would quarantine them."""
    of, features = world
    paths = [f"c{c}/{CLASSES * t + c:05d}_{v}.jpg" for c, t, v in of.tolist()]
    labels = [f"c{c}" for c in of[:, 0]]
    odd = [f"c0/photo{n}.jpg" if n % 10 == 0 else path for n, path in enumerate(paths)]
    assert propose_layout(paths, labels, features) is not None
    assert propose_layout(odd, labels, features) is None


def test_no_names_have_no_candidates():
    assert propose_layout([], [], np.empty((0, 4))) is None
    assert not has_candidates(["a/1.png", "a/2.png"], ["a", "a"])


def test_alikeness_of_groups_and_of_chance(world):
    of, features = world
    tracks = np.array([f"{c}/{t}" for c, t, _ in of.tolist()])
    found = measure_alikeness(tracks, of[:, 0], features)
    assert found.share > 0.95
    assert found.p_value == 1 / 200
    chance = measure_alikeness(np.random.default_rng(4).permutation(tracks), of[:, 0], features)
    assert 0.4 < chance.share < 0.6
    assert chance.p_value > 0.01
    assert measure_alikeness(tracks, of[:, 0], features, least=1.1).p_value == 1
    assert measure_alikeness(of[:, 0].astype(str), of[:, 0], features) is None  # no stranger of the same class


def test_thumbnails_are_compared_without_their_brightness():
    dark = np.random.default_rng(0).integers(0, 100, (1, 256)).astype(np.uint8)
    assert np.allclose(thumbnail_features(dark), thumbnail_features(2 * dark + 30), atol=1e-4)
    assert not thumbnail_features(np.full((1, 256), 7, np.uint8)).any()
