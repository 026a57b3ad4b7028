"""Which images an epoch draws: every sampler's class counts, and nothing but (seed, epoch) decides."""

import numpy as np
import pytest

from tasks.common.params import TrainBackboneParams
from tasks.scoring.targets import class_counts
from tasks.stages.train_backbone import sampling

TARGETS = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [160, 30, 10]))
LABELS = np.array([[1, 0], [1, 0], [1, 0], [1, 1], [0, 0]], dtype=np.float32)


def params(sampler: str, **changes) -> TrainBackboneParams:
    return TrainBackboneParams(sampler=sampler, batch_size=16, **changes)


def drawn(sampler: str, epoch: int = 1, progress: float = 0.0, targets=TARGETS) -> np.ndarray:
    return np.concatenate(sampling.epoch_batches(targets, 3, params(sampler), epoch, progress))


def counts(sampler: str, **how) -> list[int]:
    return class_counts(TARGETS[drawn(sampler, **how)], 3).tolist()


@pytest.mark.parametrize(
    ("sampler", "expected"),
    [
        ("natural", [160, 30, 10]),
        ("stratified", [160, 30, 10]),
        ("class_balanced", [200 / 3] * 3),
        ("square_root", 200 * np.sqrt([160, 30, 10]) / np.sqrt([160, 30, 10]).sum()),
        ("progressive", [160, 30, 10]),
        ("undersample", [10, 10, 10]),
        ("oversample", [160, 160, 160]),
        ("repeat_factor", [160, 30 * np.sqrt(200 / 90), 10 * np.sqrt(200 / 30)]),
    ],
)
def test_each_sampler_draws_its_share_of_every_class_in_even_batches(sampler, expected):
    for epoch in (1, 2):
        assert counts(sampler, epoch=epoch) == pytest.approx(expected, abs=1.01)
        batches = sampling.epoch_batches(TARGETS, 3, params(sampler), epoch, 0.0)
        lengths = [len(batch) for batch in batches]
        assert max(lengths) <= 16
        assert max(lengths) - min(lengths) <= 1
        again = sampling.epoch_batches(TARGETS, 3, params(sampler), epoch, 0.0)
        assert all(map(np.array_equal, batches, again))
    assert not np.array_equal(drawn(sampler, 1), drawn(sampler, 2))
    assert sampling.epoch_images(TARGETS, 3, params(sampler)) == pytest.approx(len(drawn(sampler)), abs=1)


def test_progressive_sampling_ends_class_balanced():
    assert counts("progressive", progress=0.5) == pytest.approx([113.3, 48.3, 38.3], abs=1.01)
    assert counts("progressive", progress=1.0) == pytest.approx([200 / 3] * 3, abs=1.01)


def test_every_image_once_where_nothing_repeats_and_evenly_often_where_it_does():
    assert sorted(drawn("stratified")) == sorted(drawn("natural")) == list(range(200))
    assert max(np.bincount(drawn("undersample"))) == 1
    often = np.bincount(drawn("class_balanced"), minlength=200)
    assert set(often[TARGETS == 2]) <= {6, 7}
    assert min(np.bincount(drawn("oversample"), minlength=200)) == 1


def test_stratified_batches_have_the_mix_of_the_whole():
    for batch in sampling.epoch_batches(TARGETS, 3, params("stratified"), 1, 0.0):
        found = class_counts(TARGETS[batch], 3)
        assert np.abs(found - len(batch) * np.array([160, 30, 10]) / 200).max() < 1.5


def test_images_with_several_labels_follow_their_rarest():
    expected = {
        name: sampling.expected_draws(LABELS, class_counts(LABELS, 2), name, 0.0)
        for name in ("class_balanced", "undersample", "oversample", "repeat_factor")
    }
    assert expected["oversample"].tolist() == [1, 1, 1, 4, 1]
    assert expected["repeat_factor"].tolist() == pytest.approx([1, 1, 1, np.sqrt(5 / 2), 1])
    assert expected["undersample"].tolist() == pytest.approx([0.25, 0.25, 0.25, 1, 1])
    balanced = np.array([5 / 8, 5 / 8, 5 / 8, 5 / 8 + 5 / 2, 1])  # 5 draws times half a class over its images
    assert expected["class_balanced"] == pytest.approx(balanced * 5 / balanced.sum())


def test_rare_draws_are_repeats_or_images_of_rare_classes():
    def chosen(sampler):
        how = params(sampler)
        batches = sampling.epoch_batches(TARGETS, 3, how, 1, 0.0)
        extra = sampling.rare_draws(batches, TARGETS, class_counts(TARGETS, 3), how, 1)
        assert [len(one) for one in extra] == [len(batch) for batch in batches]
        return np.concatenate(batches), np.concatenate(extra)

    rows, extra = chosen("oversample")
    assert sorted(rows[~extra]) == list(range(200))  # every image once without, its repeats with
    rows, extra = chosen("natural")
    assert not extra[TARGETS[rows] == 0].any()
    assert extra[TARGETS[rows] == 2].mean() == pytest.approx(1 - 10 / 160, abs=0.15)
    assert 0.5 < extra[TARGETS[rows] == 1].mean() < 1


def test_auto_balances_by_the_root_where_that_was_measured_to_help():
    assert sampling.sampler_of(params("auto"), TARGETS) == "square_root"
    assert sampling.sampler_of(params("auto", pretrained="none"), TARGETS) == "natural"
    assert sampling.sampler_of(params("auto"), np.eye(3)[TARGETS]) == "natural"
    assert sampling.sampler_of(params("oversample"), np.eye(3)[TARGETS]) == "oversample"
    assert np.array_equal(drawn("auto"), drawn("square_root"))
