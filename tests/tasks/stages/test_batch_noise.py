"""Are a batch's labels worse than the data so far? On small arrays whose noise is known."""

import numpy as np
import pytest

from tasks.stages.validate import batch_noise
from tasks.stages.validate.batch_noise import given_increase, judge, measure, missing_share, opinions

K, D, BOUND = 5, 24, 0.25
NAMES = [f"c{k}" for k in range(K)]
SHARES = np.array([0.4, 0.25, 0.2, 0.1, 0.05])


def draw(seed: int, n: int, shares: np.ndarray = SHARES, noise: float = 0.08, spread: float = 2.2):
    """(features (n, D), given labels (n,)): overlapping clouds, `noise` of every given class is its neighbour."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(K, D)) * spread / np.sqrt(2)
    given = rng.choice(K, n, p=shares)
    true = np.where(rng.random(n) < noise, (given + 1) % K, given)
    return (centres[true] + rng.normal(size=(n, D))).astype(np.float32), given


@pytest.fixture(scope="module")
def earlier():
    x, y = draw(0, 1500)
    return x, y, np.array([f"camera {i % 20}" for i in range(len(y))])


def failed(earlier, x, y, names=NAMES) -> list[str]:
    return [check.name for check in judge(measure(*earlier, x, y, names), BOUND) if check.status != "pass"]


def test_twenty_honest_batches_raise_no_alarm(earlier):
    sizes = (30, 60, 200, 500)
    assert not [seed for seed in range(1, 21) if failed(earlier, *draw(seed, sizes[seed % 4]))]


def test_honest_batches_with_another_mix_raise_no_alarm(earlier):
    for seed in range(30, 40):
        tilted = np.random.default_rng(seed).dirichlet(SHARES * 12)
        assert failed(earlier, *draw(seed, 300, tilted)) == []


def test_a_whole_class_thrown_into_a_smaller_one(earlier):
    x, y = draw(3, 250)
    assert "noise.c3" in failed(earlier, x, np.where(y == 1, 3, y))


def test_a_whole_class_thrown_into_a_larger_one(earlier):
    """Among the many c0 it makes a modest difference; that nothing is labelled c3 any more tells."""
    x, y = draw(4, 250)
    assert failed(earlier, x, np.where(y == 3, 0, y)) == ["noise.c3"]


def test_two_classes_swapped(earlier):
    x, y = draw(5, 200)
    swapped = np.where(y == 1, 2, np.where(y == 2, 1, y))
    assert {"noise.c1", "noise.c2"} <= set(failed(earlier, x, swapped))


def test_a_class_renamed(earlier):
    """`c1` arrives under a new spelling: the new name cannot be judged, but all images of c1 are missing."""
    x, y = draw(6, 250)
    assert failed(earlier, x, np.where(y == 1, 5, y), [*NAMES, "C1"]) == ["noise.c1"]


def test_a_new_class_that_looks_like_an_old_one_is_welcome(earlier):
    """Half of what looks like c1 is called C1 now, but there are as many c1 as ever."""
    x, y = draw(6, 250, np.array([0.3, 0.45, 0.15, 0.06, 0.04]))
    new_class = (y == 1) & (np.arange(len(y)) % 2 == 0)
    assert failed(earlier, x, np.where(new_class, 5, y), [*NAMES, "C1"]) == []


def test_shuffled_labels(earlier):
    x, y = draw(7, 200)
    assert len(failed(earlier, x, np.random.default_rng(0).permutation(y))) >= 2


def test_the_sentence_names_class_and_figures(earlier):
    x, y = draw(3, 250)
    check = next(c for c in judge(measure(*earlier, x, np.where(y == 1, 3, y), NAMES), BOUND) if c.name == "noise.c3")
    assert "labelled 'c3' look like another class" in check.detail
    assert check.value >= check.low > check.bound == BOUND


def test_each_image_is_told_as_given_and_as_seen(earlier):
    x, y = draw(3, 250)
    given = np.where(y == 1, 3, y)
    noise = measure(*earlier, x, given, NAMES)
    ids, labels = [f"i{n}" for n in range(len(y))], [NAMES[k] for k in given]
    found = opinions(noise, ids, labels, 5)
    assert found["confused"][0] == {"given": "c3", "seen": "c1", "count": found["confused"][0]["count"]}
    assert found["confused"][0]["count"] > 0.8 * (y == 1).sum()
    assert [one["confidence"] for one in found["images"]] == sorted([one["confidence"] for one in found["images"]])[
        ::-1
    ]
    assert len(found["images"]) == 5
    first = found["images"][0]
    assert (first["given"], NAMES[noise.seen[ids.index(first["id"])]]) == (
        labels[ids.index(first["id"])],
        first["seen"],
    )


def test_images_of_another_camera_are_not_taken_for_noise(earlier):
    x, y = draw(8, 250)
    rotation = np.linalg.qr(np.random.default_rng(5).normal(size=(D, D)))[0]
    noise = measure(*earlier, (0.5 * x @ rotation + 1).astype(np.float32), y, NAMES)
    assert opinions(noise, list("a" * len(y)), [NAMES[k] for k in y], 5)["images"] == []
    checks = judge(noise, BOUND)
    assert [check.name for check in checks] == ["noise.comparable"]
    assert checks[0].value > batch_noise.DIFFERENT
    assert "cannot be compared" in checks[0].detail


def test_multilabel_class_that_lost_its_labels(earlier):
    rng = np.random.default_rng(0)

    def both(seed, n):
        """Two independent labels, each visible in one direction."""
        y = (np.random.default_rng(seed).random((n, 2)) < 0.4).astype(np.float32)
        x = np.random.default_rng(seed + 1).normal(size=(n, D)).astype(np.float32)
        x[:, :2] += 4 * y
        return x, y

    x, y = both(10, 800)
    old = x, y, rng.integers(0, 20, 800).astype(str)
    new_x, new_y = both(20, 200)
    assert failed(old, new_x, new_y, ["a", "b"]) == []
    lost = new_y.copy()
    lost[:, 1] = 0
    assert failed(old, new_x, lost, ["a", "b"]) == ["noise.b"]
    wrong = new_y.copy()
    wrong[:, 0] = 1 - wrong[:, 0]
    assert failed(old, new_x, wrong, ["a", "b"]) == ["noise.a"]


def test_same_rows_same_measurements(earlier):
    x, y = draw(9, 100)
    assert measure(*earlier, x, y, NAMES) == measure(*earlier, x, y, NAMES)


def test_given_increase_on_a_two_by_two_table():
    old, new = np.array([[90, 10], [5, 95]]), np.array([[20, 80], [0, 100]])
    value, low, wrong, of = given_increase(old, new, 0)
    assert (value, wrong, of) == (pytest.approx(0.7), 80, 100)
    assert 0.5 < low < 0.7
    assert given_increase(old, new, 1)[0] == pytest.approx(-0.05)


def test_a_class_rare_before_is_judged_mildly():
    new = np.array([[0, 3], [0, 100]])
    assert given_increase(np.array([[1, 1], [0, 500]]), new, 0)[1] < BOUND  # 2 before, 3 now: nothing can be said


def test_missing_share_counts_only_what_confusion_does_not_explain():
    old = np.array([[95, 5], [20, 80]])  # a fifth of class 1 has always looked like class 0
    same = np.array([[190, 10], [40, 160]])
    assert missing_share(old, same, 0)[0] < 0.05
    gone = np.array([[0, 0], [200, 200]])
    assert missing_share(old, gone, 0)[1] > BOUND
