"""Changes of training labels: chosen by one set of images, measured on another."""

from functools import partial

import numpy as np
import pytest

from tasks.models import influence, remedies
from tasks.scoring.intervals import paired_difference, two_sided

K, D, N = 3, 8, 240
PLANTED = np.arange(0, 36, 3)


def rows(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = rng.integers(K, size=count)
    return (1.2 * np.eye(K, D)[y] + rng.normal(0, 0.7, (count, D))).astype(np.float32), y


def held(count: int, seed: int) -> remedies.HeldOut:
    return remedies.HeldOut(*rows(count, seed), [None] * count)


@pytest.fixture(scope="module")
def wrong() -> tuple[influence.Taught, np.ndarray]:
    """A classifier that was taught 12 wrong labels of class 0, and the right ones."""
    x, y = rows(N, 0)
    y[PLANTED] = 0
    x[PLANTED] = x[PLANTED] * 0.5 + np.float32(1) * np.eye(K, D)[1].astype(np.float32)
    true = y.copy()
    true[PLANTED] = 1
    return influence.teach(x, y, K, None, 0.01), true


def quality(taught: influence.Taught, true: np.ndarray) -> np.ndarray:
    """As the stage clean finds it: low where the label is doubtful, and for some that are right."""
    found = np.random.default_rng(1).uniform(0.5, 1, N)
    found[(taught.y.argmax(axis=1) != true) | (np.arange(N) % 10 == 5)] = 0.1
    return found


def test_changes_are_wrong_labels_and_bring_what_was_predicted(wrong):
    taught, true = wrong
    predicted = influence.targets(true, K)
    found = remedies.choose_changes(taught, held(300, 1), quality(taught, true), predicted, 9)
    assert len(found) == 9
    assert len({change.row for change in found} & set(PLANTED)) >= 8
    assert all(change.label is None or (change.label == predicted[change.row]).all() for change in found)
    effect = remedies.effect(taught, found, held(1000, 2))
    assert effect.images == 1000
    assert effect.loss_after < effect.loss_before
    assert effect.loss_predicted - effect.loss_before == pytest.approx(effect.loss_after - effect.loss_before, rel=0.4)
    assert effect.loss_high < 0
    assert effect.low <= effect.after - effect.before <= effect.high
    assert effect.verdict == "helps"


def test_right_labels_changed_help_nobody(wrong):
    taught, _ = wrong
    good = [row for row in range(N) if row not in set(PLANTED)][:40]
    changes = [remedies.Change(row, np.roll(taught.y[row], 1)) for row in good]
    effect = remedies.effect(taught, changes, held(1000, 2))
    assert effect.loss_after > effect.loss_before
    assert effect.verdict == "nothing helps"


def test_rows_that_harm_nothing_are_not_suggested():
    x, y = rows(N, 0)
    taught = influence.teach(x, y, K, None, 0.05)
    own = remedies.HeldOut(x, y, [None] * N)  # asked about its own rows, each one is needed
    found = remedies.choose_changes(taught, own, np.full(N, 0.5), taught.y, N)
    harm = influence.left_out(taught, influence.solve(taught, influence.loss_gradient(taught, x, y, np.ones(N))[None]))
    assert {change.row for change in found} == set(np.flatnonzero(harm[0] < 0))
    assert all(change.label is None for change in found), "the prediction agrees: there is no other label to give"


def test_images_of_one_group_are_one_observation(wrong):
    taught, true = wrong
    changes = [remedies.Change(int(row), influence.targets(true, K)[row]) for row in PLANTED]
    x, y = rows(200, 5)
    alone = remedies.effect(taught, changes, remedies.HeldOut(x, y, [None] * 200))
    doubled = remedies.HeldOut(
        np.repeat(x, 2, axis=0), np.repeat(y, 2), np.repeat(np.arange(200), 2).astype(str).tolist()
    )
    together = remedies.effect(taught, changes, doubled)
    assert together.loss_high - together.loss_low == pytest.approx(alone.loss_high - alone.loss_low, rel=0.01)


def test_few_more_right_answers_or_one_group_prove_nothing():
    gain = np.zeros(200)
    gain[:4] = 1
    interval = partial(remedies._interval, of_answers=True)
    assert interval(gain, [None] * 200) == pytest.approx(paired_difference(4, 0, 200, two_sided(0.95)), abs=2e-4)
    assert interval(gain, [None] * 200)[0] < 0
    assert interval(np.repeat(gain, 5), [None] * 1000)[0] > 0
    low, high = interval(np.ones(30), ["one object"] * 30)
    assert low < 0 < high


def test_multilabel_rows_change_whole_labels():
    x, y = rows(N, 0)
    table = influence.targets(y, K).astype(np.int64)
    true = table.astype(np.float32)
    table[:10] = 1 - table[:10]
    taught = influence.teach(x, table, K, None, 0.02)
    doubtful = np.where(np.arange(N) < 10, 0.1, 0.9)
    xh, yh = rows(300, 3)
    other = remedies.HeldOut(xh, influence.targets(yh, K), [None] * 300)
    found = remedies.choose_changes(taught, other, doubtful, true, 5)
    assert {change.row for change in found} <= set(range(10))
    effect = remedies.effect(taught, found, other)
    assert effect.loss_after < effect.loss_before
