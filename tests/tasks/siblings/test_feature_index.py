"""The index of pretrained features: exact neighbours in blocks, and pairs that stand out."""

import tracemalloc

import numpy as np
import pytest

from tasks.siblings import feature_index
from tasks.siblings.feature_index import fit_whitening, nearest, sibling_pairs


def unit_rows(count: int, dimensions: int = 16, seed: int = 0) -> np.ndarray:
    x = np.random.default_rng(seed).normal(size=(count, dimensions)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.mark.parametrize("blocks", [(2048, 4096), (7, 11), (64, 10)])
def test_neighbours_are_those_of_the_whole_matrix_whatever_the_blocks(monkeypatch, blocks):
    monkeypatch.setattr(feature_index, "ROWS", blocks[0])
    monkeypatch.setattr(feature_index, "COLUMNS", blocks[1])
    x, base = unit_rows(150), unit_rows(90, seed=1)
    for found, whole in ((nearest(x, 5), x @ x.T - 2 * np.eye(150)), (nearest(x, 5, base), x @ base.T)):
        expected = np.argsort(-whole, axis=1)[:, :5]
        assert np.array_equal(found[0], expected)
        assert np.allclose(found[1], np.take_along_axis(whole, expected, axis=1), atol=1e-6)


def test_fewer_rows_than_neighbours_leave_gaps():
    x = unit_rows(3)
    index, cosine = nearest(x, 4)
    assert (index[:, 2:] == -1).all()
    assert (cosine[:, 2:] == -1).all()
    assert set(index[0, :2]) == {1, 2}
    assert nearest(x[:0], 4)[0].shape == (0, 4)


def test_identical_rows_find_one_another_and_never_themselves():
    index, cosine = nearest(np.repeat(unit_rows(1), 6, axis=0), 2)
    assert (index != np.arange(6)[:, None]).all()
    assert (index >= 0).all()
    assert np.allclose(cosine, 1)


def test_memory_follows_the_blocks_and_not_the_square_of_the_rows(monkeypatch):
    monkeypatch.setattr(feature_index, "ROWS", 256)
    monkeypatch.setattr(feature_index, "COLUMNS", 512)
    x = unit_rows(5000, 8)
    tracemalloc.start()
    nearest(x, 3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5000 * 5000 * 4 * 0.1


def test_whitening_gives_unit_rows_and_leaves_constant_ones_at_zero():
    x = np.random.default_rng(0).normal(size=(200, 30)).astype(np.float16) * np.geomspace(
        0.01, 10, 30, dtype=np.float16
    )
    units = fit_whitening(x).apply(x)
    assert np.allclose(np.linalg.norm(units, axis=1), 1, atol=1e-5)
    same = np.ones((60, 4), np.float16)
    assert not fit_whitening(same).apply(same).any()


def test_pairs_of_one_object_are_found_and_mere_classes_are_not():
    """Ten classes whose images scatter, and 40 objects seen twice among 400 images."""
    rng = np.random.default_rng(0)
    classes = rng.normal(size=(10, 64)) * 3
    x = classes[rng.integers(0, 10, 400)] + rng.normal(size=(400, 64))
    assert len(sibling_pairs(fit_whitening(x).apply(x))) < 10
    x[360:] = x[:40] + 0.25 * rng.normal(size=(40, 64))
    pairs = sibling_pairs(fit_whitening(x).apply(x))
    true = {(n, 360 + n) for n in range(40)}
    assert len(true & set(map(tuple, pairs))) >= 38
    assert len(true & set(map(tuple, pairs))) >= 0.9 * len(pairs)


def test_a_handful_of_images_has_no_siblings_to_speak_of():
    x = np.repeat(unit_rows(10), 2, axis=0)
    assert sibling_pairs(x).shape == (0, 2)
