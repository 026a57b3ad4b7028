"""Metrics against scikit-learn, and the cases it does not cover."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.scoring import metrics


def softmax(logits):
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    return p / p.sum(axis=1, keepdims=True)


@pytest.fixture(scope="module")
def multiclass():
    rng = np.random.default_rng(0)
    targets = rng.choice(5, 400, p=[0.5, 0.25, 0.15, 0.08, 0.02])
    probabilities = softmax(rng.normal(size=(400, 5)) + 1.5 * np.eye(5)[targets]).astype(np.float32)
    return targets, probabilities


@pytest.fixture(scope="module")
def multilabel():
    rng = np.random.default_rng(1)
    targets = (rng.random((300, 4)) < [0.5, 0.3, 0.1, 0.03]).astype(np.float32)
    probabilities = (1 / (1 + np.exp(-rng.normal(size=(300, 4)) - 2 * targets + 1))).astype(np.float32)
    return targets, probabilities


def test_multiclass_agrees_with_scikit_learn(multiclass):
    from sklearn import metrics as sk

    targets, probabilities = multiclass
    predicted = probabilities.argmax(axis=1)
    assert metrics.accuracy(targets, predicted, 5) == pytest.approx(sk.accuracy_score(targets, predicted))
    assert metrics.balanced_accuracy(targets, predicted, 5) == pytest.approx(
        sk.balanced_accuracy_score(targets, predicted)
    )
    assert metrics.macro_f1(targets, predicted, 5) == pytest.approx(sk.f1_score(targets, predicted, average="macro"))
    assert metrics.micro_f1(targets, predicted, 5) == pytest.approx(sk.f1_score(targets, predicted, average="micro"))
    np.testing.assert_array_equal(metrics.confusion(targets, predicted, 5), sk.confusion_matrix(targets, predicted))
    assert metrics.log_loss(probabilities, targets) == pytest.approx(sk.log_loss(targets, probabilities), rel=1e-5)
    precision, recall, f1, support = sk.precision_recall_fscore_support(targets, predicted)
    found = metrics.per_class(targets, predicted, 5)
    for mine, theirs in zip(("precision", "recall", "f1", "support"), (precision, recall, f1, support), strict=True):
        np.testing.assert_allclose(found[mine], theirs)
    expected = [sk.average_precision_score(targets == k, probabilities[:, k]) for k in range(5)]
    np.testing.assert_allclose(metrics.average_precision(targets, probabilities), expected)


def test_multilabel_agrees_with_scikit_learn(multilabel):
    from sklearn import metrics as sk

    targets, probabilities = multilabel
    predicted = probabilities >= np.array([0.5, 0.4, 0.6, 0.3])
    assert metrics.accuracy(targets, predicted, 4) == pytest.approx(sk.accuracy_score(targets, predicted))
    for name, mine in (("macro", metrics.macro_f1), ("micro", metrics.micro_f1)):
        assert mine(targets, predicted, 4) == pytest.approx(sk.f1_score(targets, predicted, average=name))
    each = [sk.balanced_accuracy_score(targets[:, k], predicted[:, k]) for k in range(4)]
    assert metrics.balanced_accuracy(targets, predicted, 4) == pytest.approx(np.mean(each))
    assert metrics.mean_average_precision(targets, probabilities) == pytest.approx(
        sk.average_precision_score(targets, probabilities, average="macro")
    )
    assert metrics.brier(probabilities, targets) == pytest.approx(
        np.mean([sk.brier_score_loss(targets[:, k], probabilities[:, k]) for k in range(4)])
    )


def test_brier_by_hand():
    assert metrics.brier(np.array([[0.8, 0.2]]), np.array([1])) == pytest.approx(0.8**2 + 0.8**2)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 4)), min_size=2, max_size=30).filter(
        lambda rows: any(truth for truth, _ in rows)
    )
)
def test_average_precision_with_ties_agrees_with_scikit_learn(rows):
    from sklearn.metrics import average_precision_score

    truth, scores = np.array([r[0] for r in rows]), np.array([r[1] / 4 for r in rows])
    mine = metrics.average_precision(truth[:, None].astype(float), scores[:, None])[0]
    assert mine == pytest.approx(average_precision_score(truth, scores))


def test_a_class_without_samples_is_left_out_of_means():
    targets, predicted = np.array([0, 0, 1, 1]), np.array([0, 2, 1, 1])  # class 2 is only ever predicted
    assert metrics.balanced_accuracy(targets, predicted, 3) == pytest.approx(0.75)
    assert metrics.macro_f1(targets, predicted, 3) == pytest.approx((2 / 3 + 1) / 2)
    found = metrics.per_class(targets, predicted, 3)
    assert np.isnan(found["recall"][2])
    assert found["precision"][2] == 0
    assert np.isnan(metrics.average_precision(targets, np.eye(3)[predicted])[2])


def test_answering_every_label_is_no_better_than_chance(multilabel):
    targets, _ = multilabel
    assert metrics.balanced_accuracy(targets, np.ones_like(targets, bool), 4) == pytest.approx(0.5)


def test_counts_give_the_same_metric_in_bulk(multiclass):
    """The gate scores thousands of resamples at once through `metric_of`: leading axes must not change a value."""
    targets, probabilities = multiclass
    predicted = probabilities.argmax(axis=1)
    one = metrics.counts(targets, predicted, 5)
    two = metrics.counts(targets[::2], predicted[::2], 5)
    both = metrics.Counts(*(np.stack(pair) for pair in zip(one, two, strict=True)))
    for name in ("accuracy", "balanced_accuracy", "macro_f1"):
        bulk = metrics.metric_of(name, both, "multiclass")
        assert bulk[0] == pytest.approx(getattr(metrics, name)(targets, predicted, 5))
        assert bulk[1] == pytest.approx(getattr(metrics, name)(targets[::2], predicted[::2], 5))


def test_ece_by_hand():
    # confidences .9 .9 .6 .6; right: yes no yes yes -> gaps |.9 - .5| and |.6 - 1|, half of the events each
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.6, 0.4]])
    targets = np.array([0, 1, 0, 0])
    assert metrics.ece(probabilities, targets, bins=10) == pytest.approx(0.4)
    assert metrics.adaptive_ece(probabilities, targets, bins=2) == pytest.approx(0.4)
    # squared gaps .16 and .16, less variances .25 and 0: below zero in sum
    assert metrics.debiased_ece(probabilities, targets, bins=2) == pytest.approx(np.sqrt((0.16 - 0.25 + 0.16) / 2))


def test_ece_holds_certain_and_impossible_events():
    probabilities = np.array([[1.0, 0.0], [0.0, 1.0]])
    targets = np.array([[1.0, 0.0], [0.0, 1.0]])
    assert metrics.ece(probabilities, targets) == 0
    assert metrics.reliability(probabilities, targets, 15, "width").count.sum() == 4


def test_debiased_ece_is_near_the_truth_where_the_plain_one_is_not():
    """Calibrated events: the truth is 0. Over-confident by .1: the truth is .1."""
    rng = np.random.default_rng(2)
    plain, debiased, shifted = [], [], []
    for _ in range(40):
        p = rng.uniform(0.55, 0.95, 500)
        happened = rng.random(500) < p
        two = np.stack([p, 1 - p], axis=1)
        plain.append(metrics.ece(two, (~happened).astype(int)))
        debiased.append(metrics.debiased_ece(two, (~happened).astype(int)) ** 2)
        low = rng.random(500) < p - 0.1
        shifted.append(metrics.debiased_ece(two, (~low).astype(int)))
    assert np.mean(plain) > 0.03
    assert np.median(debiased) < 0.01**2
    assert np.mean(shifted) == pytest.approx(0.1, abs=0.015)


def test_equal_mass_bins_hold_equal_numbers(multiclass):
    targets, probabilities = multiclass
    found = metrics.reliability(probabilities, targets, 15, "mass")
    assert found.count.sum() == 400
    assert np.ptp(found.count) <= 1
    assert (np.diff(found.confidence) >= 0).all()
    assert metrics.reliability(probabilities[:4], targets[:4], 15).count.tolist() == [1, 1, 1, 1]


def test_no_samples_and_unequal_shapes_are_refused():
    with pytest.raises(ValueError, match=r"\(0,\)"):
        metrics.accuracy(np.empty(0, int), np.empty(0, int), 3)
    with pytest.raises(ValueError, match=r"\(2,\).*\(3,\)"):
        metrics.accuracy(np.zeros(2, int), np.zeros(3, int), 3)
    with pytest.raises(ValueError, match="no samples"):
        metrics.ece(np.empty((0, 3)), np.empty(0, int))
    with pytest.raises(ValueError, match="none of 2 samples"):
        metrics.precision_recall(np.zeros(2, bool), np.ones(2))
