"""The linear probe: right optimum, weights, streaming, several at once."""

import numpy as np
import pytest

from tasks.models import probe, standardised
from tasks.models.probe import fit, fit_many


@pytest.fixture(scope="module")
def blobs():
    """300 points of 3 overlapping classes in 8 dimensions of very different scales."""
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(3), 100)
    x = (rng.normal(size=(3, 8))[y] + rng.normal(size=(300, 8))) * np.geomspace(0.1, 100, 8) + 5
    return x.astype(np.float32), y


def test_it_finds_the_optimum_that_scikit_learn_finds(blobs):
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    x, y = blobs
    # no scale floor here, to optimise the very same thing
    scaled = StandardScaler().fit_transform(x)
    peer = LogisticRegression(C=1 / (0.1 * len(x)), tol=1e-8, max_iter=1000).fit(scaled, y)
    ours = fit(scaled, y, 3, l2=0.1, iterations=300)
    np.testing.assert_allclose(ours.probabilities(scaled), peer.predict_proba(scaled), atol=2e-3)


def test_scale_and_offset_of_a_feature_do_not_matter(blobs):
    x, y = blobs
    one, other = fit(x, y, 3), fit((x - 3) * 7, y, 3)
    np.testing.assert_allclose(one.probabilities(x), other.probabilities((x - 3) * 7), atol=1e-3)


def test_a_constant_or_almost_constant_feature_does_no_harm(blobs):
    x, y = blobs
    wide = np.column_stack([x, np.ones(300), np.where(np.arange(300) == 0, 1e-4, 0)]).astype(np.float32)
    found = fit(wide, y, 3)
    wide[:, -1] = 5.0  # elsewhere that feature lives
    assert np.isfinite(found.logits(wide)).all()
    assert (found.logits(wide).argmax(1) == y).mean() > 0.8


def test_rows_of_weight_zero_take_no_part_and_weights_count_like_copies(blobs):
    x, y = blobs
    wrong = y.copy()
    wrong[:50] = 2
    weight = np.ones(300)
    weight[:50] = 0
    np.testing.assert_array_equal(
        fit(x, wrong, 3, sample_weight=weight).weight, fit(x, y, 3, sample_weight=weight).weight
    )
    twice = np.where(np.arange(300) < 150, 2.0, 1.0)
    same = fit(x, y, 3, sample_weight=10 * twice)
    np.testing.assert_allclose(same.weight, fit(x, y, 3, sample_weight=twice).weight, atol=1e-5)


def test_several_probes_at_once_are_the_single_ones(blobs):
    x, y = blobs
    weights = np.random.default_rng(1).integers(0, 2, (4, 300))
    together = fit_many(x, y, 3, weights, iterations=300)
    for weight, ours in zip(weights, together, strict=True):
        alone = fit(x, y, 3, sample_weight=weight, iterations=300)
        np.testing.assert_allclose(ours.probabilities(x), alone.probabilities(x), atol=5e-3)
    which = np.arange(300) % 4
    chosen = probe.select_logits(together, x, which)
    np.testing.assert_allclose(chosen[5], together[1].logits(x)[5], rtol=1e-4, atol=1e-5)


def test_going_on_from_a_start_ends_where_one_long_fit_ends(blobs):
    x, y = blobs
    weights = np.ones((1, 300))
    half = fit_many(x, y, 3, weights, iterations=10)
    on = fit_many(x, y, 3, weights, iterations=300, start=half)[0]
    whole = fit_many(x, y, 3, weights, iterations=300)[0]
    np.testing.assert_allclose(on.probabilities(x), whole.probabilities(x), atol=5e-3)
    longer = fit_many(x, y, 3, weights, iterations=0, start=half)[0]
    np.testing.assert_allclose(longer.logits(x), half[0].logits(x), atol=1e-3)


def test_features_that_do_not_fit_in_memory_give_the_same_probe(blobs, monkeypatch):
    x, y = blobs
    held = fit(x, y, 3)
    monkeypatch.setattr(standardised, "IN_MEMORY", 0)
    monkeypatch.setattr(standardised, "ROWS", 64)
    streamed = fit(x, y, 3)
    np.testing.assert_allclose(held.probabilities(x), streamed.probabilities(x), atol=1e-3)


def test_cores_share_the_rows_and_change_nothing(blobs, monkeypatch):
    x, y = blobs
    monkeypatch.setattr(standardised, "ROWS", 20)
    weights = np.arange(300) // 100 != np.arange(3)[:, None]  # a chunk of weight 0 is left out
    weights[0, 5] = True
    alone = fit_many(x, y, 3, weights)
    for one, other in zip(alone, fit_many(x, y, 3, weights, on_cores=True), strict=True):
        np.testing.assert_array_equal(one.weight, other.weight)
    monkeypatch.setattr(probe, "COLUMNS", 3)  # one probe at a time
    for one, other in zip(alone, fit_many(x, y, 3, weights), strict=True):
        np.testing.assert_allclose(one.weight, other.weight, atol=1e-5)


def test_half_precision_is_widened_as_numpy_does():
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    for values in (every[np.isfinite(every)], every):
        found = next(standardised.chunks(values[None]))[1]
        np.testing.assert_array_equal(found.view(np.uint32), values[None].astype(np.float32).view(np.uint32))


def test_multilabel_learns_each_label_by_itself():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 6)).astype(np.float32)
    y = (x[:, :3] > 0).astype(np.float32)
    found = fit(x, y, 3, l2=1e-3)
    probabilities = found.probabilities(x)
    assert found.multilabel
    assert ((probabilities > 0.5) == (y > 0)).mean() > 0.97
    assert probabilities.sum(axis=1).max() > 1.5, "labels do not compete"


def test_gradients_match_finite_differences():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20, 4)).astype(np.float32)
    rows = standardised.Standardised(x, np.zeros(4, np.float32), np.ones(4, np.float32))
    share = np.full((2, 20), 1 / 20, np.float32)
    for y in (rng.integers(0, 3, 20), rng.integers(0, 2, (20, 3)).astype(np.float32)):
        loss = probe._Loss(rows, y, share, 3, 0.1)
        points = rng.normal(size=(2, 3 * 5)).astype(np.float32)
        _, gradients = loss(points, [0, 1])
        for place in range(0, 15, 4):
            step = np.zeros_like(points)
            step[:, place] = 1e-2
            up, down = (loss(points + sign * step, [0, 1])[0] for sign in (1, -1))
            np.testing.assert_allclose((up - down) / 2e-2, gradients[:, place], atol=1e-3)


def test_two_fits_are_bit_for_bit_the_same(blobs):
    x, y = blobs
    np.testing.assert_array_equal(fit(x, y, 3).weight, fit(x, y, 3).weight)


def test_arrays_that_do_not_fit_are_refused_with_both_shapes(blobs):
    x, y = blobs
    with pytest.raises(ValueError, match=r"300 rows; y is \(299,\)"):
        fit(x, y[:-1], 3)
    with pytest.raises(ValueError, match=r"0\.\.2, expected 0\.\.1"):
        fit(x, y, 2)
    with pytest.raises(ValueError, match="at least one above 0"):
        fit(x, y, 3, sample_weight=np.zeros(300))
