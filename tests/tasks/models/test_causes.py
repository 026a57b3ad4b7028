"""The training rows behind a mistake."""

import numpy as np

from tasks.models import influence
from tasks.models.causes import ROWS, explainable, find_causes

K, D, N = 3, 6, 200


def taught_wrong() -> tuple[influence.Taught, np.ndarray, np.ndarray]:
    """A classifier, the place of 6 wrong labels among its rows, and the image that they mislead it about."""
    rng = np.random.default_rng(0)
    y = rng.integers(K, size=N)
    x = (np.eye(K, D)[y] * 2 + rng.normal(0, 0.4, (N, D))).astype(np.float32)
    odd = (np.eye(K, D)[0] * 2 - 2 * np.eye(D)[5]).astype(np.float32)  # looks like class 0, in its own way
    wrong = np.arange(6)
    x[wrong], y[wrong] = odd + rng.normal(0, 0.1, (6, D)), 1
    return influence.teach(x, y, K, None, 0.01), wrong, odd


def test_the_wrong_labels_that_taught_a_mistake_are_named_first():
    taught, wrong, image = taught_wrong()
    assert taught.classifier.logits(image[None]).argmax() == 1, "the mistake"
    answer, truth = np.eye(K)[[1]], np.eye(K)[[0]]
    (causes,) = find_causes(taught, image[None], answer, truth)
    assert {row for row, _ in causes.taught[:6]} == set(wrong)
    assert {row for row, _ in causes.near[:6]} == set(wrong)
    assert all(effect > 0 for _, effect in causes.taught)
    similar = [value for _, value in causes.near]
    assert similar == sorted(similar, reverse=True)
    assert len(causes.near) == ROWS
    keep = np.ones(N)
    keep[[row for row, _ in causes.taught]] = 0
    y = taught.y.argmax(axis=1)
    without = influence.teach(taught.x, y, K, keep, 0.01).classifier.logits(image[None]).argmax()
    assert without == 0, "without them there is no mistake"


def test_mistakes_are_explained_alike_alone_and_in_blocks(monkeypatch):
    taught, _, image = taught_wrong()
    x = np.stack([image, image + 0.5, image - 0.5])
    answers, truths = np.eye(K)[[1, 1, 2]], np.eye(K)[[0, 0, 0]]
    together = find_causes(taught, x, answers, truths)
    monkeypatch.setattr(influence, "TOGETHER", 1)
    alone = find_causes(taught, x, answers, truths)
    assert [[row for row, _ in one.near] for one in together] == [[row for row, _ in one.near] for one in alone]
    assert [one.taught[0][0] for one in together] == [one.taught[0][0] for one in alone]
    assert find_causes(taught, x[:0], answers[:0], truths[:0]) == []


def test_fewer_mistakes_are_explained_of_large_training_sets():
    taught, _, _ = taught_wrong()
    assert explainable(taught) == 500
    large = influence.Taught(np.empty((50_000, 512), np.float16), np.empty((50_000, 100), np.float32), None, 0.1, None)
    assert 20 <= explainable(large) < 100
