"""The nested choice: nothing is judged, or calibrated, by what chose it."""

import numpy as np
import pytest

from tasks.inference.temperature import fit_temperature
from tasks.models import choice
from tasks.models.choice import Protected
from tasks.models.head import Head


def random_heads(rng: np.random.Generator, count: int, dimensions: int = 20) -> list[Head]:
    weights = rng.normal(size=(count, 3, dimensions)).astype(np.float32)
    return [Head(weight, np.zeros(3, np.float32), float(number)) for number, weight in enumerate(weights)]


def test_the_logits_of_a_fold_do_not_depend_on_its_labels(monkeypatch):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 20)).astype(np.float32), np.repeat([0, 1, 2], 20)
    heads = {"a": random_heads(rng, 20), "b": random_heads(rng, 20)}
    fold = choice.folds(y, 0)
    monkeypatch.setattr(choice, "folds", lambda *_: fold)
    before = choice.nested(heads, x, y, 0)
    other = np.where(fold == 0, (y + 1) % 3, y)
    after = choice.nested(heads, x, other, 0)
    assert before.found[before.method].head.setting != after.found[after.method].head.setting
    np.testing.assert_allclose(unscaled(before.logits[fold == 0]), unscaled(after.logits[fold == 0]), rtol=1e-4)


def unscaled(logits: np.ndarray) -> np.ndarray:
    """Logits without their scale, which is that of the final head."""
    return logits / np.abs(logits).max()


def test_the_whole_choice_is_worth_what_chance_gives_where_all_heads_are_random():
    judged, lucky = [], []
    y = np.repeat([0, 1, 2], 12)
    for seed in range(12):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(36, 20)).astype(np.float32)
        found = choice.nested({"a": random_heads(rng, 30), "b": random_heads(rng, 30)}, x, y, seed)
        judged.append(found.score)
        lucky.append(choice.score(y, found.found[found.method].head.logits(x)))
    assert np.mean(lucky) > 0.5
    assert np.mean(judged) == pytest.approx(1 / 3, abs=0.1)


def test_one_head_keeps_its_logits_exactly():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(30, 20)).astype(np.float32), np.repeat([0, 1, 2], 10)
    (head,) = random_heads(rng, 1)
    np.testing.assert_array_equal(choice.nested({"one": [head]}, x, y, 0).logits, head.logits(x))


def test_logits_of_other_heads_come_in_the_scale_of_the_final_one():
    """Two equally good heads, one twenty times as sharp: folds that chose the other must not look unsure."""
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1, 2], 40)
    x = (np.eye(3)[y] * 2 + rng.normal(size=(120, 3))).astype(np.float32)
    soft = Head(np.eye(3, dtype=np.float32), np.zeros(3, np.float32), 1.0)
    turned = np.eye(3, dtype=np.float32) + rng.normal(size=(3, 3)).astype(np.float32) * 0.1
    found = choice.nested({"one": [soft, Head(20 * turned, np.zeros(3, np.float32), 2.0)]}, x, y, 0)
    chosen = found.found["one"].head.logits(x)
    assert not np.array_equal(chosen, found.logits)  # some folds chose the other one
    assert fit_temperature(found.logits, y) == pytest.approx(fit_temperature(chosen, y), rel=0.3)


def test_groups_stay_in_one_fold():
    y = np.repeat([0, 1], 30)
    groups = [f"g{row // 3}" for row in range(60)]
    fold = choice.folds(y, 0, groups)
    assert all(len(set(fold[row : row + 3])) == 1 for row in range(0, 60, 3))
    assert set(np.bincount(fold)) == {12}
    np.testing.assert_array_equal(choice.folds(y, 0, [None] * 60), choice.folds(y, 0))


def test_a_bound_keeps_methods_that_cost_common_classes_too_much():
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1], [100, 100])
    x = np.stack([np.where(y == 0, 1, -1) + rng.normal(size=200), np.ones(200)], axis=1).astype(np.float32)

    def cut(at: float) -> Head:
        return Head(np.array([[1, -at], [-1, at]], np.float32), np.zeros(2, np.float32), at)

    heads = {"bold": [cut(0.8), cut(0.0)], "stage1": [cut(-0.8)]}
    free = choice.nested(heads, x, y, 0)
    assert (free.method, free.found["bold"].head.setting) == ("bold", 0.0)
    tight = choice.nested(heads, x, y, 0, protected=Protected(np.array([True, False]), 0.02))
    assert tight.method == "stage1"
    wide = choice.nested(heads, x, y, 0, protected=Protected(np.array([True, False]), 0.3))
    assert wide.method == "bold"
