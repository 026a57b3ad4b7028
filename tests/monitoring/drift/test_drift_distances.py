"""Distances, p-values and the domain classifier, compared with scipy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ks_2samp, mannwhitneyu

from monitoring.drift import calibration, distances, domain_classifier
from monitoring.drift.window import measure_window
from tests.support.drift_rows import PARAMS, WINDOW, D, drifted_names, window


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=40), st.lists(st.integers(0, 6), min_size=1, max_size=40))
def test_the_ks_distance_equals_scipys_with_and_without_ties(a, b):
    a, b = np.array(a, float), np.array(b, float)
    assert distances.ks(a, np.sort(b)) == pytest.approx(ks_2samp(a, b, method="asymp").statistic)
    rng = np.random.default_rng(len(a))
    c, d = rng.normal(size=len(a)), rng.normal(size=len(b))
    assert distances.ks(c, np.sort(d)) == pytest.approx(ks_2samp(c, d, method="asymp").statistic)


def test_distances_of_many_splits_equal_those_of_each_split():
    rng = np.random.default_rng(0)
    values = rng.integers(0, 9, 60).astype(float)
    values[:5] = np.nan
    chosen = rng.random((8, 60)) < 0.4
    gaps, sizes = distances.ks_splits(values, chosen)
    for row in range(8):
        inside, outside = (v[np.isfinite(v)] for v in (values[chosen[row]], values[~chosen[row]]))
        assert gaps[row] == pytest.approx(ks_2samp(inside, outside).statistic)
        assert sizes[row] == pytest.approx(len(inside) * len(outside) / (len(inside) + len(outside)))


def test_thresholds_are_the_inverse_of_the_probabilities():
    for p in (0.5, 0.01, 1e-5):
        assert distances.ks_p(distances.ks_at(p, 150.0), 150.0) == pytest.approx(p, rel=1e-6)
        assert distances.mean_p(distances.mean_at(p, 150.0, 5), 150.0, 5) == pytest.approx(p, rel=1e-6)
        assert distances.psi_p(distances.psi_at(p, 150.0, 5), 150.0, 5) == pytest.approx(p, rel=1e-6)
        assert calibration.embedding_p(calibration.embedding_at(p)) == pytest.approx(p, rel=1e-6)


def test_an_empty_category_does_not_give_infinity():
    assert np.isfinite(distances.psi(np.array([0, 9]), np.array([9, 0])))
    assert distances.psi(np.array([3, 9]), np.array([3, 9])) == 0
    assert distances.kl(np.array([8, 1]), np.array([1, 8])) > 0


def test_areas_of_held_out_folds_equal_mann_whitney():
    rng = np.random.default_rng(0)
    scores, fold = rng.integers(0, 9, (50, 3)).astype(float), np.zeros(50, int)
    chosen = rng.random((50, 3)) < 0.4
    area, z = domain_classifier.surprise(scores, fold, chosen)
    for k in range(3):
        inside, outside = scores[chosen[:, k], k], scores[~chosen[:, k], k]
        assert area[k] == pytest.approx(mannwhitneyu(inside, outside).statistic / len(inside) / len(outside))
    assert np.allclose(z, (area - 0.5) / domain_classifier.error(chosen.sum(axis=0), (~chosen).sum(axis=0)))


def test_features_of_high_dimension_are_told_apart_only_if_they_differ():
    rng = np.random.default_rng(0)
    base, same = rng.normal(size=(300, 400)), rng.normal(size=(200, 400))
    other = same + 0.3 * (np.arange(400) < 60)
    inside = (np.arange(500) < 200)[:, None]
    areas = []
    for side in (same, other):
        x = np.vstack(domain_classifier.project(side, base))
        fold = domain_classifier.folds(500, rng)
        areas.append(domain_classifier.surprise(domain_classifier.out_of_fold(x, fold, inside), fold, inside)[0][0])
    assert abs(areas[0] - 0.5) < 0.1 < 0.2 < areas[1] - 0.5


def test_one_extreme_row_does_not_hide_drift_from_the_classifier(reference):
    def wild(columns):
        columns["features"][0] = np.full(D, 1e30)

    assert "embedding" in drifted_names(measure_window(window(moved=0.5, change=wild), WINDOW, reference, PARAMS))
