"""Judging labels: input that is refused, and planted wrong labels that are found."""

from dataclasses import astuple

import numpy as np
import pytest

from tasks.common.errors import DataError
from tasks.common.params import CleanParams
from tasks.stages.clean.judge import judge_training
from tasks.stages.clean.label_noise import check_judgeable, fit_noise_model, plausible_noise, smooth
from tasks.stages.clean.policy import decide


def alone(count: int) -> np.ndarray:
    """A group or cluster of its own for each sample."""
    return np.arange(count).astype(str)


# Input for which cleanlab would silently report no issue


def test_input_that_hides_every_issue_is_refused():
    y = np.array([0, 1, 0, 1])
    good = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.5, 0.5]])
    check_judgeable(y, good, ["a", "b"])
    with pytest.raises(DataError, match=r"1 of 3 classes have no training label: \['c'\]"):
        check_judgeable(y, np.column_stack([good, np.zeros(4)]), ["a", "b", "c"])
    with pytest.raises(DataError, match=r"2 classes or more, found 1: \['a'\]"):
        check_judgeable(np.zeros(4, int), np.ones((4, 1)), ["a"])
    for poison in (np.nan, np.inf):
        with pytest.raises(DataError, match="2 of 4 rows of probabilities hold NaN"):
            check_judgeable(y, np.where([[0], [1], [0], [1]], poison, good), ["a", "b"])
    with pytest.raises(DataError, match=r"sum to 1, found one off by 0\.5"):
        check_judgeable(y, good / 2, ["a", "b"])
    with pytest.raises(DataError, match=r"1 of 4 rows of probabilities are outside 0\.\.1"):
        check_judgeable(y, good + np.array([[0.2, -0.2], [0, 0], [0, 0], [0, 0]]), ["a", "b"])
    with pytest.raises(DataError, match=r"4 labels of 2 classes, but probabilities of shape \(3, 2\)"):
        check_judgeable(y, good[:3], ["a", "b"])
    several = np.array([[1, 0, 1], [0, 0, 1], [1, 0, 1], [0, 0, 1]], np.float32)
    with pytest.raises(DataError, match=r"2 of 3 labels are on none or on all of 4 training images: \['b', 'c'\]"):
        check_judgeable(several, np.full((4, 3), 0.5), ["a", "b", "c"])


def test_features_with_nan_are_refused():
    x, y, _ = gaussians(noise=0)
    x[7, 3] = np.nan
    with pytest.raises(DataError, match="are the features finite"):
        judge_training(x, y, list("abcde"), alone(len(y)), alone(len(y)), 5, 0)


# Judging


def gaussians(noise: float, seed: int = 0, each: int = 80, apart: float = 1.0):
    """(x, given, true): 5 classes in 16 dimensions, a share of the labels replaced by others."""
    rng = np.random.default_rng(seed)
    true = np.repeat(np.arange(5), each)
    x = apart * rng.normal(size=(5, 16))[true] + rng.normal(size=(len(true), 16))
    given = true.copy()
    flip = rng.choice(len(true), int(noise * len(true)), replace=False)
    given[flip] = (given[flip] + rng.integers(1, 5, len(flip))) % 5
    return x.astype(np.float32), given, true


def judged(x, y, classes=5):
    names = [f"class {number}" for number in range(classes)]
    return judge_training(x, y, names, alone(len(y)), alone(len(y)), 5, 0)


def test_planted_flips_are_found_and_named():
    x, given, true = gaussians(noise=0.1)
    found = judged(x, given).suspicion
    wrong = given != true
    assert (found.is_issue & wrong).sum() >= 0.8 * wrong.sum()
    assert (found.is_issue & ~wrong).sum() <= 0.1 * wrong.sum()
    assert (found.predicted[wrong] == true[wrong]).mean() > 0.9
    assert 1 - found.quality.mean() == pytest.approx(0.1, abs=0.03), "quality is a probability"


def test_clean_labels_stay_clean():
    x, given, _ = gaussians(noise=0)
    found = judged(x, given).suspicion
    assert found.is_issue.sum() <= 2


def test_a_judge_of_other_splits_agrees_with_what_it_learnt():
    x, given, _ = gaussians(noise=0.1)
    judge = judged(x, given).judge
    fresh, wrong, right = gaussians(noise=0.2, seed=0)
    fresh = fresh + np.random.default_rng(9).normal(size=fresh.shape).astype(np.float32) * 0.1
    found = judge(fresh, wrong)
    assert (found.is_issue == (wrong != right)).mean() > 0.95


def test_rates_of_small_classes_are_drawn_to_the_common_ones():
    joint = np.array([[0.90, 0.01], [0.06, 0.03]])  # the small class looks two thirds wrong, from 9 samples of 100
    smoothed = smooth(joint, np.array([91, 9]), strength=50)
    assert smoothed.sum() == pytest.approx(100)
    np.testing.assert_allclose(smoothed.sum(axis=1), [91, 9])
    assert 0.07 < smoothed[1, 0] / 9 < 0.2
    np.testing.assert_allclose(smooth(joint, np.array([91, 9]), strength=1e-9), joint * 100, rtol=1e-6)


def test_timid_probabilities_are_sharpened_and_class_frequencies_undone():
    """Given labels that a noise model explains better than doubt does are seen for what they are."""
    rng = np.random.default_rng(0)
    true = rng.choice(3, 3000, p=[0.8, 0.15, 0.05])
    sure = np.full((3000, 3), 0.002)
    sure[np.arange(3000), true] = 0.996
    timid = sure**0.3 / (sure**0.3).sum(axis=1, keepdims=True)
    given = np.where(rng.random(3000) < 0.1, rng.integers(0, 3, 3000), true)
    model = fit_noise_model(given, timid)
    assert model.sharpness > 2
    np.testing.assert_allclose(model.transition.sum(axis=0), 1)
    quality = model.posterior(given, timid)[np.arange(3000), given]
    assert ((quality < 0.5) == (given != true)).mean() > 0.99


def test_random_noise_is_found_and_right_labels_of_weak_features_are_left_alone():
    """The probe errs often in the second set. Only in the first do sure predictions meet wrong labels."""
    x, given, true = gaussians(noise=0.15, each=200)
    found = judged(x, given)
    assert 1 - found.proven.quality.mean() == pytest.approx(0.15, abs=0.04)
    assert (found.proven.is_issue == (given != true)).mean() > 0.95
    x, given, _ = gaussians(noise=0, each=200, apart=0.25)
    found = judged(x, given)
    assert (found.suspicion.predicted != given).mean() > 0.2
    assert found.suspicion.is_issue.mean() < 0.03
    assert (found.proven.quality == 1).all()


def test_evidence_is_counted_by_group_not_by_image():
    """Seventy frames of one mislabelled object are one piece of evidence."""
    rng = np.random.default_rng(0)
    said = np.repeat([0, 1], 1000)
    sure = np.tile([0.6, 0.7, 0.8, 0.9, 0.999], 400)
    likely = np.where(said[:, None] == [0, 1], sure[:, None], 1 - sure[:, None])
    given = np.where(rng.random(2000) < sure, said, 1 - said)
    given[:70] = 1
    model = fit_noise_model(given, likely)
    alone = plausible_noise(given, likely, likely, model, np.arange(2000).astype(str))
    assert 0 < alone.transition[1, 0] <= model.transition[1, 0]
    tracks = np.array(["one" if row < 70 else str(row) for row in range(2000)])
    together = plausible_noise(given, likely, likely, model, tracks)
    np.testing.assert_array_equal(together.transition, np.eye(2))


def test_the_probes_own_confusion_is_high_for_classes_it_cannot_tell_apart():
    rng = np.random.default_rng(0)
    true = rng.integers(0, 4, 1200)
    centres = np.eye(4)[:, :3] * 4  # class 3 is nowhere near 0, 1, 2
    centres[1] = centres[0] + 0.3  # classes 0 and 1 look alike
    x = (centres[true] + rng.normal(size=(1200, 3))).astype(np.float32)
    given = np.where(rng.random(1200) < 0.1, rng.integers(0, 4, 1200), true)
    found = judged(x, given, classes=4)
    pair = np.stack([given, found.suspicion.predicted])
    alike = np.isin(pair, [0, 1]).all(axis=0) & (pair[0] != pair[1])
    apart = (pair == 2).any(axis=0) & (pair[0] != pair[1])
    assert alike.sum() > 20
    assert apart.sum() > 20
    assert found.confusion[alike].min() > 0.3
    assert found.confusion[apart].max() < 0.1


def test_multilabel_flips_of_single_labels_are_found():
    rng = np.random.default_rng(0)
    true = (rng.random((500, 4)) < [0.5, 0.4, 0.3, 0.2]).astype(np.float32)
    x = (true @ rng.normal(size=(4, 16)) * 2 + rng.normal(size=(500, 16))).astype(np.float32)
    given = true.copy()
    rows = rng.choice(500, 40, replace=False)
    columns = rng.integers(0, 4, 40)
    given[rows, columns] = 1 - given[rows, columns]
    verdicts = judged(x, given, classes=4)
    found = verdicts.suspicion
    wrong = (given != true).any(axis=1)
    assert (found.is_issue & wrong).sum() >= 30
    assert (found.is_issue & ~wrong).sum() <= 12
    actions, _ = astuple(decide(verdicts, given, 4, CleanParams(max_changed_share=1, rare_class=0)))
    repaired = actions == "relabel"
    assert repaired.sum() >= 10
    assert (found.predicted[repaired] == true[repaired]).all(axis=1).mean() > 0.8
    assert verdicts.judge(x, given).predicted.shape == (500, 4)
