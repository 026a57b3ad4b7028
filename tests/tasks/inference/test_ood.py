"""Out-of-distribution scores on small arrays: what they find, and what may not break them."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from tasks.common.errors import DataError
from tasks.inference.ood import gaussian, residual
from tasks.inference.ood import scores as ood

RNG = np.random.default_rng(0)
CENTRES = np.array([[5.0, 0, 0, 0], [0, 5.0, 0, 0], [0, 0, 5.0, 0]])


def sampled(each: int, dimensions: int = 4) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(features, logits, targets) of three classes around CENTRES, in random order."""
    y = RNG.permutation(np.repeat(np.arange(3), each))
    x = RNG.normal(0, 0.4, (len(y), dimensions))
    x[:, :4] += CENTRES[y]
    return x.astype(np.float32), (x @ np.eye(dimensions)[:3].T).astype(np.float32), y


def fitted(method: str, each: int = 200, dimensions: int = 4) -> tuple[dict, dict[str, np.ndarray]]:
    x, logits, y = sampled(each, dimensions)
    held, held_logits, _ = sampled(200, dimensions)
    return ood.fit(method, ood.Training(x, logits, y), held, held_logits, 0.05, "multiclass")[:2]


@pytest.mark.parametrize("method", ood.METHODS)
def test_unfamiliar_images_score_higher_and_the_share_of_false_alarms_holds(method):
    about, tensors = fitted(method)
    json.dumps(about, allow_nan=False)
    assert about["false_rejection"] <= 0.05
    fresh, logits, _ = sampled(200)
    assert (ood.score(fresh, logits, about, tensors) > about["threshold"]).mean() < 0.12
    other = np.array([0, 0, 0, 9.0] if "vim" in method else [1.7, 1.7, 1.7, 0]) + RNG.normal(0, 0.2, (200, 4))
    found = ood.score(other, other[:, :3], about, tensors)
    assert (found > about["threshold"]).mean() > 0.95


@pytest.mark.parametrize("method", ood.METHODS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_broken_outputs_are_never_familiar(method, bad, task):
    x, logits, y = sampled(30)
    y = y if task == "multiclass" else np.eye(3)[y]
    about, tensors, _ = ood.fit(method, ood.Training(x, logits, y), x, logits, 0.1, task)
    x, logits = x.copy(), logits.copy()
    x[3], logits[3] = bad, bad
    assert ood.score(x, logits, about, tensors)[3] > about["threshold"]


@pytest.mark.parametrize("method", ood.METHODS)
@pytest.mark.parametrize(
    "case", ["few", "one each", "constant", "duplicate", "all alike", "two classes", "one class", "broken", "huge"]
)
def test_scores_stay_finite_and_deterministic_on_difficult_features(method, case):
    dimensions = 64 if case in ("few", "one each") else 6
    x, logits, y = sampled({"few": 5, "one each": 1}.get(case, 40), dimensions)
    if case == "constant":
        x[:, 4] = 3.0
    elif case == "duplicate":
        x[:, 5] = x[:, 4]
    elif case == "all alike":
        x[:] = x[0]
    elif case in ("two classes", "one class"):
        kept = y < (2 if case == "two classes" else 1)
        x, y, logits = x[kept], y[kept], logits[kept][:, : 2 if case == "two classes" else 1]
    elif case == "broken":
        x[7] = np.nan
    elif case == "huge":
        x *= 1e6
    held, held_logits = np.nan_to_num(x)[::2], logits[::2]
    training = ood.Training(x, logits, y)
    about, tensors, _ = ood.fit(method, training, held, held_logits, 0.05, "multiclass")
    json.dumps(about, allow_nan=False)
    assert all(np.isfinite(value).all() for value in tensors.values())
    found = ood.score(held, held_logits, about, tensors)
    assert (found < ood.FAR).all()
    again = ood.fit(method, training, held, held_logits, 0.05, "multiclass")[:2]
    np.testing.assert_array_equal(found, ood.score(held, held_logits, *again))


@pytest.mark.parametrize("method", ood.METHODS)
def test_a_score_is_the_same_from_its_file_and_for_one_image(method, tmp_path):
    about, tensors = fitted(method, 20, 70)
    save_file(tensors, tmp_path / "ood.safetensors")
    read = ood.read_tensors(tmp_path / "ood.safetensors")
    x, logits, _ = sampled(20, 70)
    expected = ood.score(x, logits, about, tensors)
    np.testing.assert_array_equal(ood.score(x, logits, json.loads(json.dumps(about)), read), expected)
    alone = [ood.score(x[row : row + 1], logits[row : row + 1], about, read)[0] for row in range(5)]
    np.testing.assert_allclose(alone, expected[:5], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shrinkage", [None, 0.3, 1.0])
def test_few_images_solve_the_same_equations_as_many(shrinkage):
    """With fewer images than dimensions the system is one of images: the answer is that of the shrunk covariance."""
    rng = np.random.default_rng(0)
    apart, right = rng.normal(size=(30, 50)), rng.normal(size=(50, 4))
    covariance, shrunk, mean, _ = gaussian._shrunk(apart, 50, shrinkage)
    whole = (1 - shrunk) * covariance + shrunk * mean * np.eye(50)
    np.testing.assert_allclose(gaussian._solve(apart, right, shrinkage), np.linalg.solve(whole, right), rtol=1e-9)


def test_mahalanobis_is_the_textbook_distance():
    x, _, y = sampled(300)
    tensors = gaussian.fit(x, (np.arange(len(x)), y), unit=False, relative=False, shrinkage=0)
    means = np.stack([x[y == k].mean(axis=0) for k in range(3)])
    within = np.linalg.inv(np.cov((x - means[y]).T, bias=True))
    apart = x[:, None] - means
    expected = np.einsum("nkd,de,nke->nk", apart, within, apart).min(axis=1)
    np.testing.assert_allclose(gaussian.score(x, tensors, unit=False), expected, rtol=0.02, atol=0.02)


def test_the_relative_distance_subtracts_that_to_all_images():
    x, _, y = sampled(300)
    plain, relative = (
        gaussian.fit(x, (np.arange(len(x)), y), unit=False, relative=kind, shrinkage=0) for kind in (False, True)
    )
    apart = x - x.mean(axis=0)
    background = np.einsum("nd,de,ne->n", apart, np.linalg.inv(np.cov(apart.T, bias=True)), apart)
    expected = gaussian.score(x, plain, unit=False) - background
    np.testing.assert_allclose(gaussian.score(x, relative, unit=False), expected, atol=0.05)
    assert relative["axes"].shape == (4, 2), "three means differ in two directions"


@pytest.mark.parametrize("dimensions", [4, 40], ids=["more images", "more dimensions"])
def test_relative_distances_are_those_of_both_shrunk_covariances(dimensions):
    x, _, y = sampled(8, dimensions)
    means = np.array([x[y == k].mean(axis=0) for k in range(3)])
    within, centre, shrinkage = np.cov((x - means[y]).T, bias=True), x.mean(axis=0), 0.2
    within = (1 - shrinkage) * within + shrinkage * np.trace(within) / dimensions * np.eye(dimensions)
    between = (means - centre).T @ np.diag(np.bincount(y) / len(y)) @ (means - centre)
    fresh, _, _ = sampled(20, dimensions)

    def distance(apart, covariance):
        return np.einsum("nd,de,ne->n", apart, np.linalg.inv(covariance), apart)

    nearest = np.min([distance(fresh - mean, within) for mean in means], axis=0)
    relative = gaussian.fit(x, (np.arange(len(x)), y), unit=False, relative=True, shrinkage=shrinkage)
    found = gaussian.score(fresh, relative, unit=False)
    np.testing.assert_allclose(found, nearest - distance(fresh - centre, within + between), rtol=0.01, atol=0.05)


@pytest.mark.parametrize(("images", "dimensions"), [(60, 8), (20, 50)])
def test_the_linear_layer_is_the_shortest_that_gives_the_logits(images, dimensions):
    x = RNG.normal(size=(images, dimensions))
    x[:, 1] = 2 * x[:, 0]  # a direction that says nothing new
    x -= x.mean(axis=0)
    y = x @ RNG.normal(size=(dimensions, 3))
    expected = np.linalg.lstsq(x, y, rcond=1e-6)[0]
    np.testing.assert_allclose(residual._linear(x, y), expected, atol=1e-4)


def test_few_images_give_the_distance_of_the_whole_covariance():
    """The short way for fewer images than dimensions against the same images among more of them."""
    x, _, y = sampled(8, 40)
    short = gaussian.fit(x, (np.arange(24), y), unit=False, relative=False, shrinkage=0.3)
    twice = np.concatenate([x, x])  # the same covariance, more rows than dimensions
    long = gaussian.fit(twice, (np.arange(48), np.tile(y, 2)), unit=False, relative=False, shrinkage=0.3)
    fresh, _, _ = sampled(20, 40)
    a, b = gaussian.score(fresh, short, unit=False), gaussian.score(fresh, long, unit=False)
    np.testing.assert_allclose(a, b, rtol=0.02)


def test_training_features_without_one_finite_row_are_refused():
    x, logits, y = sampled(3)
    with pytest.raises(DataError, match="9 training images"):
        ood.fit("knn", ood.Training(x * np.nan, logits, y), x, logits, 0.05, "multiclass")


def test_multilabel_energy_falls_with_every_label_seen():
    about = {"method": "energy", "task": "multilabel"}
    logits = np.array([[-5.0, -5.0], [5.0, -5.0], [5.0, 5.0]])
    assert (np.diff(ood.score(logits, logits, about, {})) < 0).all()


def test_an_image_of_several_labels_is_in_each_of_their_classes():
    rows, classes = ood.members(np.array([[1, 0], [1, 1], [0, 0]]))
    assert set(zip(rows.tolist(), classes.tolist(), strict=True)) == {(0, 0), (1, 0), (1, 1), (2, 2)}


def test_the_bank_gives_rare_classes_their_place():
    strata = np.array(["common"] * 1000 + ["rare"] * 7)
    rows = ood.bank_rows(strata, rows=50)
    assert len(rows) == len(set(rows.tolist())) == 50
    assert (strata[rows] == "rare").sum() == 7
    assert (ood.bank_rows(strata, rows=50) == rows).all()


def test_wide_features_take_fewer_training_images():
    assert ood.training_rows(512) == ood.TRAINING_ROWS
    assert 9000 < ood.training_rows(2048) < 10_000
    assert ood.training_rows(100_000) == ood.BANK_ROWS


def test_a_bundle_of_before_is_scored_as_it_was():
    """Its about has no more than this, and its only tensor is the bank."""
    bank = np.array([[1, 0], [0, 1]], np.float32)
    found = ood.score(
        np.array([[2.0, 0], [1, 1]]), np.zeros((2, 2)), {"method": "knn", "task": "multiclass", "k": 1}, {"bank": bank}
    )
    np.testing.assert_allclose(found, [0, np.sqrt(2 - np.sqrt(2))], atol=1e-6)
