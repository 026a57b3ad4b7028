"""Intervals of proportions: against scipy, and how often they hold the truth."""

import numpy as np
import pytest
from scipy.stats import binomtest

from tasks.scoring.intervals import paired_difference, two_sided, unpaired_difference, wilson


def test_two_sided_quantiles():
    assert two_sided(0.95) == pytest.approx(1.959964, abs=1e-6)
    assert two_sided(0.98) == pytest.approx(2.326348, abs=1e-6)


@pytest.mark.parametrize("n", [1, 2, 10, 100, 5000])
@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.98])
def test_wilson_agrees_with_scipy(n, confidence):
    for count in {0, 1, n // 3, n // 2, n - 1, n}:
        theirs = binomtest(count, n).proportion_ci(confidence, method="wilson")
        assert wilson(count, n, two_sided(confidence)) == pytest.approx(tuple(theirs), abs=1e-12)


def test_wilson_stays_inside_and_knows_nothing_of_no_images():
    assert wilson(0, 10, 1.96) == pytest.approx((0.0, 0.2775), abs=1e-3)
    assert wilson(10, 10, 1.96)[1] == 1.0
    assert wilson(50, 100, 1.96) == (pytest.approx(0.4038, abs=1e-3), pytest.approx(0.5962, abs=1e-3))
    assert wilson(0, 0, 1.96) == (0.0, 1.0)


def test_paired_difference_by_hand():
    """Agresti & Min 2005: (b - c) / (n + 2) plus or minus z sqrt(b + c + 1 - (b - c)^2 / (n + 2)) / (n + 2)."""
    low, high = paired_difference(12, 5, 98, 2.0)
    assert (low + high) / 2 == pytest.approx(0.07)
    assert (high - low) / 2 == pytest.approx(2 * np.sqrt(18 - 49 / 100) / 100)
    assert paired_difference(0, 1, 1, 3.0)[0] == -1.0, "no difference is below -1"


def test_differences_hold_the_truth_about_as_often_as_they_say():
    rng = np.random.default_rng(0)
    paired = unpaired = 0
    for _ in range(1000):
        gained, lost, _ = rng.multinomial(80, [0.15, 0.05, 0.8])
        low, high = paired_difference(int(gained), int(lost), 80, two_sided(0.95))
        paired += low <= 0.1 <= high
        low, high = unpaired_difference(int(rng.binomial(60, 0.9)), 60, int(rng.binomial(80, 0.8)), 80, two_sided(0.95))
        unpaired += low <= 0.1 <= high
    assert 0.93 <= paired / 1000 <= 0.99
    assert 0.93 <= unpaired / 1000 <= 0.99
