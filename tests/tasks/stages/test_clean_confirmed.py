"""A confirmed label is left alone by `clean` until there is new evidence."""

import numpy as np

from tasks.stages.clean.confirmed import ENOUGH_NEW, NEIGHBOURS, newer_neighbours, reopened


def test_only_images_that_came_since_and_look_alike_are_new_evidence():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1, 16))
    alike, others = x + 0.05 * rng.normal(size=(12, 16)), rng.normal(size=(5000, 16))
    train = np.concatenate([others, alike, x])
    y = np.zeros(len(train), int)
    y[-13:-1] = 1
    batch = np.full(len(train), 2)
    batch[-13:-9] = 5  # four of the twelve that look alike came later

    def count(since: int, predicted: int, labels=y) -> int:
        return int(newer_neighbours(x, np.array([since]), np.array([predicted]), train, labels, batch)[0])

    late = np.argsort(-(train[-13:-1] @ x[0]) / np.linalg.norm(train[-13:-1], axis=1))[:NEIGHBOURS]
    assert count(4, 1) == (late < 4).sum() > 0
    assert count(5, 1) == 0
    assert count(4, 0) == 0
    assert count(1, 1) == NEIGHBOURS
    assert count(1, 1, np.where(y == 1, 2, y)) == 0
    several = np.eye(3)[y].astype(int)
    assert int(newer_neighbours(x, np.array([1]), np.array([[0, 1, 0]]), train, several, batch)[0]) == NEIGHBOURS


def test_what_changed_is_said():
    found = reopened(["bob said dog", None, None], np.array([0, ENOUGH_NEW, ENOUGH_NEW - 1]))
    assert found == ["bob said dog", "3 of the 10 images most like it came since and have another label", None]
