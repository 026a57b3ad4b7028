"""Live accuracy from few labels: the estimate is that of the literature, and its interval is honest."""

import numpy as np
import pytest

from monitoring.live.estimate import (
    interval,
    live_accuracy,
    more_labels,
    prediction_powered,
    sentence,
    stands_for,
    strata,
)

# (seed, n, N, weighted) -> value, low, high with tuned power, then with power 1; computed with ppi-python 0.2.3
VECTORS = {
    (12, 40, 100, False): (0.749862, 0.617383, 0.882342, 0.74946, 0.601541, 0.897379),
    (5, 60, 200, False): (0.818821, 0.721125, 0.916517, 0.83881, 0.723231, 0.954389),
    (3, 80, 300, True): (0.752293, 0.656964, 0.847623, 0.756068, 0.658723, 0.853412),
}


def answers(seed: int, labels: int, rows: int, weighted: bool = False):
    """(N,) predictions, (n,) predictions of labelled rows, labels and weights."""
    rng = np.random.default_rng(seed)
    predicted = np.round(rng.beta(2, 1, rows), 3)
    right = (rng.random(labels) < 0.5 + 0.4 * predicted[:labels]).astype(float)
    return predicted, predicted[:labels], right, np.where(weighted & (np.arange(labels) % 3 == 0), 1.5, 1.0)


@pytest.mark.parametrize("case", VECTORS)
def test_one_stratum_is_prediction_powered_inference_as_published(case):
    given = answers(*case)
    found = []
    for power in (None, 1.0):
        value, variance, used = prediction_powered(*given, power=power)
        half = 1.959964 * variance**0.5
        found += [value, value - half, value + half]
        assert (used == 1.0) == (power == 1.0)
    assert found == pytest.approx(VECTORS[case], abs=2e-6)


def test_few_labels_that_are_all_right_prove_no_more_than_clopper_and_pearson_say():
    confidence = np.full(1000, 0.99)
    found = live_accuracy(confidence, confidence[:10], np.ones(10), np.full(10, 0.01))
    assert found.value == 1
    assert found.high == 1
    assert found.low == pytest.approx(interval(10, 10)[0], abs=0.01)  # .69, whatever the model thinks of itself
    assert (found.answers, found.labels, found.used) == (1000, 10, 10)


def test_the_interval_is_clopper_and_pearsons_and_for_many_errors_a_narrower_one():
    assert interval(9, 10) == pytest.approx((0.5550, 0.9975), abs=1e-4)
    assert interval(0, 10) == pytest.approx((0, 0.3085), abs=1e-4)
    low, high = interval(9, 10, 0.5)
    assert (low, high) == pytest.approx((0.6187, 0.9889), abs=1e-4)  # Jeffreys


def test_labels_that_come_back_less_often_for_unclear_images_do_not_make_the_model_look_better():
    rng = np.random.default_rng(1)
    confidence = rng.uniform(0.2, 1, 20_000)
    right = (rng.random(20_000) < confidence).astype(float)
    rows = rng.permutation(20_000)[:3000]
    rows = rows[rng.random(3000) < np.where(confidence[rows] < 0.6, 0.2, 0.9)]
    plain = right[rows].mean()
    found = live_accuracy(confidence, confidence[rows], right[rows], np.full(len(rows), 0.15))
    assert plain > right.mean() + 0.08
    assert found.value == pytest.approx(right.mean(), abs=0.02)
    assert found.low <= right.mean() <= found.high
    assert found.high < plain


def test_answers_that_were_asked_more_often_count_for_less():
    rng = np.random.default_rng(2)
    good = np.arange(4000) < 3000  # the camera that is right, asked 8 times as often
    right = np.where(good, rng.random(4000) < 0.95, rng.random(4000) < 0.4).astype(float)
    chance = np.where(good, 0.4, 0.05)
    rows = np.flatnonzero(rng.random(4000) < chance)
    confidence = np.full(4000, 0.8)
    found = live_accuracy(confidence, confidence[rows], right[rows], chance[rows])
    assert right[rows].mean() > 0.9
    assert found.value == pytest.approx(right.mean(), abs=0.05)
    equal = live_accuracy(confidence, confidence[rows], right[rows], np.full(len(rows), 0.4))
    assert found.high - found.low > equal.high - equal.low, "few labels stand for many answers"
    assert stands_for(confidence, confidence[rows], 1 / chance[rows], 4000).sum() == pytest.approx(4000)


def test_confidence_that_tells_right_from_wrong_is_worth_labels():
    rng = np.random.default_rng(3)
    confidence = rng.beta(0.8, 0.4, 4000)
    right = (rng.random(4000) < confidence).astype(float)
    chance = np.full(200, 0.05)
    knowing = live_accuracy(confidence, confidence[:200], right[:200], chance)
    same = np.full(4000, 0.7)
    unknowing = live_accuracy(same, same[:200], right[:200], chance)
    assert knowing.worth > 1.3 * 200
    assert unknowing.worth < 1.01 * 200
    assert knowing.high - knowing.low < unknowing.high - unknowing.low


def test_labels_that_somebody_picked_are_left_out():
    rng = np.random.default_rng(4)
    confidence = rng.uniform(0.3, 1, 1000)
    right = (rng.random(1000) < confidence).astype(float)
    picked = np.r_[np.arange(50), np.argsort(confidence)[:200]]
    chance = np.r_[np.full(50, 0.05), np.full(200, np.nan)]
    both = live_accuracy(confidence, confidence[picked], right[picked], chance)
    audit = live_accuracy(confidence, confidence[:50], right[:50], chance[:50])
    assert (both.value, both.low, both.high, both.used) == (audit.value, audit.low, audit.high, 50)
    assert both.labels == 250
    assert live_accuracy(confidence, confidence[picked], right[picked], np.full(250, np.nan)) is None
    assert live_accuracy(confidence, confidence[:0], right[:0], chance[:0]) is None


def test_if_nearly_every_answer_has_a_label_the_others_bound_the_accuracy():
    confidence, right = np.full(400, 0.9), (np.arange(400) >= 40).astype(float)
    found = live_accuracy(confidence, confidence[:390], right[:390], np.full(390, np.nan))
    assert found.low == pytest.approx(interval(350, 400)[0])
    assert found.high == pytest.approx(interval(360, 400)[1])
    whole = live_accuracy(confidence, confidence, right, np.full(400, np.nan))
    assert (whole.value, whole.low) == (0.9, pytest.approx(interval(360, 400)[0]))


def test_a_random_sample_of_the_answers_is_enough():
    rng = np.random.default_rng(5)
    confidence = rng.beta(4, 1, 50_000)
    right = (rng.random(300) < confidence[:300]).astype(float)
    sampled = live_accuracy(confidence[-5000:], confidence[:300], right, np.full(300, 0.006), answers=50_000)
    whole = live_accuracy(confidence, confidence[:300], right, np.full(300, 0.006))
    assert sampled.answers == whole.answers == 50_000
    assert sampled.low == pytest.approx(whole.low, abs=0.01)


def test_equal_confidences_and_lone_labels_are_no_error():
    for labels in (1, 2, 16, 40):
        confidence = np.r_[np.full(labels, 0.5), np.linspace(0, 1, 500)]
        found = live_accuracy(confidence, confidence[:labels], np.zeros(labels), np.full(labels, 0.1))
        assert 0 <= found.low <= found.value <= found.high <= 1
        assert found.value < 0.35
    two = np.r_[np.full(30, 0.6), np.full(60, 0.95)]
    assert strata(two).tolist() == [0.6]
    with np.errstate(all="raise"):
        found = live_accuracy(np.r_[two, two], two, np.r_[np.zeros(30), np.ones(60)], np.full(90, 0.5))
    assert found.value == pytest.approx(2 / 3)


def test_more_labels_say_how_many_make_the_interval_narrow_enough():
    rng = np.random.default_rng(6)
    confidence = rng.beta(4, 1, 30_000)
    right = (rng.random(30_000) < confidence).astype(float)
    found = live_accuracy(confidence, confidence[:200], right[:200], np.full(200, 0.01))
    more = more_labels(found, 0.03)
    many = 200 + more
    later = live_accuracy(confidence, confidence[:many], right[:many], np.full(many, 0.01))
    assert later.high - later.low == pytest.approx(0.06, abs=0.008)
    assert more_labels(later, 0.05) == 0
    assert more_labels(found, 0.0001) is None, "not even all answers"


def test_the_sentence_names_interval_and_labels():
    confidence = np.full(9000, 0.7)
    right = (np.arange(200) % 10 < 7).astype(float)
    found = live_accuracy(confidence, confidence[:200], right, np.full(200, 0.02))
    low, high = found.low, found.high
    said = sentence(found)
    assert said.startswith(f"{np.floor(1000 * low) / 10:.1f} to {np.ceil(1000 * high) / 10:.1f} % right; ")
    assert said.endswith(f"{more_labels(found, 0.03)} more labels make it +-3 points")
    few = live_accuracy(confidence[:210], confidence[:30], right[:30], np.full(30, 0.1))
    assert sentence(few).endswith("by 30 labels") or "more labels" in sentence(few)
