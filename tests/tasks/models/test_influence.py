"""Influence of training rows, against what fitting again really changes."""

import numpy as np
import pytest

from tasks.models import influence

N, D, K = 300, 6, 3
L2 = 0.05


@pytest.fixture(scope="module", params=["multiclass", "multilabel"])
def taught(request) -> influence.Taught:
    x, y = rows(N, 0)
    return influence.teach(x, y if request.param == "multiclass" else table(y), K, weights(N), L2)


def rows(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = rng.integers(K, size=count)
    return (np.eye(K, D)[y] + rng.normal(0, 0.8, (count, D))).astype(np.float32), y


def table(y: np.ndarray) -> np.ndarray:
    return influence.targets(y, K).astype(np.int64)


def weights(count: int) -> np.ndarray:
    return np.random.default_rng(7).uniform(0.5, 2, count)


def again(taught: influence.Taught, y: np.ndarray, weight: np.ndarray) -> influence.Taught:
    """Fitted again: the whole truth. The penalty weighs what it weighed before rows were left out."""
    l2 = taught.l2 * weights(N).sum() / weight.sum()
    y = y if taught.multilabel else y.argmax(axis=1)
    return influence.teach(taught.x, y.astype(np.int64), K, weight, l2, start=taught.classifier)


def questions(taught: influence.Taught) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(features, directions (Q, K) of the logits, gradients (Q, K, D + 1)) of other images."""
    x, _ = rows(4, 1)
    directions = np.eye(K)[[0, 1, 2, 0]] - np.eye(K)[[1, 2, 0, 2]]
    return x, directions, (directions[:, :, None] * taught.standardised(x)[:, None, :]).astype(np.float32)


def values(taught: influence.Taught, x: np.ndarray, directions: np.ndarray) -> np.ndarray:
    return (taught.classifier.logits(x) * directions).sum(axis=1)


def test_leaving_rows_out_changes_answers_as_predicted(taught):
    x, directions, gradients = questions(taught)
    predicted = influence.left_out(taught, influence.solve(taught, gradients))
    for row in (0, 1):
        most = np.argsort(predicted[row])[:8]
        weight = weights(N)
        weight[most] = 0
        actual = values(again(taught, taught.y, weight), x, directions) - values(taught, x, directions)
        assert actual[row] < 0
        assert predicted[row, most].sum() == pytest.approx(actual[row], rel=0.25)


def test_another_label_changes_the_loss_as_predicted(taught):
    x, y = rows(60, 2)
    y = y if not taught.multilabel else table(y)
    gradient = influence.loss_gradient(taught, x, y, np.ones(60))
    predicted = influence.given_instead(taught, influence.solve(taught, gradient[None])[0])
    row, label = np.unravel_index(np.argmin(predicted), predicted.shape)
    new = taught.y.copy()
    new[row] = np.eye(K)[label] if not taught.multilabel else new[row]
    if taught.multilabel:
        new[row, label] = 1 - new[row, label]
    actual = loss(again(taught, new, weights(N)), x, y) - loss(taught, x, y)
    assert actual < 0
    assert predicted[row, label] == pytest.approx(actual, rel=0.3)
    if not taught.multilabel:
        assert np.abs(predicted[np.arange(N), taught.y.argmax(axis=1)]).max() < 1e-7, "the same label changes nothing"


def loss(taught: influence.Taught, x: np.ndarray, y: np.ndarray) -> float:
    p, y = taught.classifier.probabilities(x), influence.targets(y, K)
    each = y * np.log(p) + (1 - y) * np.log(1 - p) if taught.multilabel else y * np.log(p)
    return -float(each.sum(axis=1).mean())


def test_the_step_of_many_changes_is_that_of_fitting_again(taught):
    x, _ = rows(50, 3)
    chosen, new = np.arange(0, 30, 3), taught.y.copy()
    new[chosen] = np.roll(new[chosen], 1, axis=1)
    weight = np.ones(len(chosen))
    step = influence.changed(taught, chosen, new[chosen], weight)
    predicted = taught.standardised(x) @ step.T
    actual = again(taught, new, weights(N)).classifier.logits(x) - taught.classifier.logits(x)
    compared = [p - p.mean(axis=1, keepdims=True) for p in (predicted, actual)]  # a constant changes no answer
    assert np.corrcoef(compared[0].ravel(), compared[1].ravel())[0, 1] > 0.98


def test_what_the_rows_add_is_the_answer(taught):
    x, directions, _ = questions(taught)
    z = taught.standardised(x)
    parts = [influence.added(taught, one, direction).sum() for one, direction in zip(z, directions, strict=True)]
    mean, _ = taught.scale
    constant = taught.classifier.logits(mean[None])[0] @ directions.T
    assert np.allclose(np.array(parts) + constant, values(taught, x, directions), atol=0.02)


def test_the_nearest_rows_are_those_in_the_same_direction():
    x, y = rows(N, 0)
    taught = influence.teach(x, y, K, None, L2)
    near = influence.cosine(taught, taught.standardised(x[[5, 9]]))
    assert near.argmax(axis=1).tolist() == [5, 9]
    assert near.max() <= 1 + 1e-5
