"""Every setting of augmentation changes training, and a domain refuses or narrows what does harm."""

from typing import get_args

import pytest

from tasks.backbones import timm_models
from tasks.common.artifacts import network_rows
from tasks.common.domains import DOMAINS
from tasks.common.errors import ParamsError
from tasks.common.params import ImagesParams, TrainBackboneParams, parse_params
from tasks.common.sections.training import Change, UnfreezePhases
from tasks.stages.train_backbone import checks, feeding, phases, stage, trainer
from tasks.stages.train_backbone.augment.changes import Changes
from tasks.stages.train_backbone.augment.limits import decoded_side, limits, narrowed
from tasks.stages.train_backbone.augment.resolution import epoch_side
from tests.support import small_project
from tests.support.small_training import SCRATCH, examples, setting, small

ONE_EPOCH = SCRATCH.model_copy(update={"epochs": UnfreezePhases(frozen=0, last=0, all=1), "augment": []})


def trained(**changes) -> float:
    """The training loss after one epoch of a small network."""
    how = setting(ONE_EPOCH, **changes)
    return trainer.fit(small(), examples(), examples(1), how)[1][0]["train_loss"]


@pytest.fixture(scope="module")
def plain() -> float:
    return trained()


@pytest.mark.parametrize("name", get_args(Change))
def test_each_name_of_augment_changes_training(name, plain):
    assert trained(augment=[name]) != plain


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_each_name_of_mix_changes_training(name, plain):
    assert trained(mix=[name]) != plain


@pytest.mark.parametrize(
    ("changes", "other"),
    [
        ({"augment": ["rotate"]}, {"rotation": 60.0}),
        ({"augment": ["resized_crop"]}, {"crop_area": 0.9}),
        ({"augment": ["rand_augment"]}, {"magnitude": 0.9}),
        ({"augment": ["trivial_augment"]}, {"domain": "symbols"}),
    ],
)
def test_each_range_changes_training(changes, other):
    assert trained(**changes) != trained(**changes | other)


def test_mixing_trains_multi_label_data_too():
    targets = examples(multilabel=True)
    losses = [trainer.fit(small(), targets, targets, setting(ONE_EPOCH, mix=mix))[1] for mix in ([], ["cutmix"])]
    assert losses[0][0]["train_loss"] != losses[1][0]["train_loss"]


# --- domains ----------------------------------------------------------------------------------------------------------


def section(**values) -> TrainBackboneParams:
    suite = [{"type": "expect_column_values_to_be_between"}]
    return parse_params({"train_backbone": values, "validate": {"expectations": suite}}).train_backbone


@pytest.mark.parametrize(
    ("domain", "name"),
    [("symbols", "flip"), ("document", "vertical_flip"), ("natural", "vertical_flip"), ("satellite", "hue")],
)
def test_a_change_that_does_harm_is_refused_with_its_reason(domain, name):
    with pytest.raises(ParamsError, match=f"{name} does harm to images of the domain {domain} .*: remove it"):
        section(domain=domain, augment=["crop", name])
    assert section(domain=None, augment=["crop", name]).augment == ["crop", name]


def test_a_mixture_that_may_hide_the_defect_is_refused():
    with pytest.raises(ParamsError, match="cutmix does harm"):
        section(domain="industrial", mix=["mixup", "cutmix"])
    assert section(domain="industrial", mix=["mixup"]).mix == ["mixup"]


def test_forbidden_names_exist():
    known = {*get_args(Change), "mixup", "cutmix"}
    assert all(domain.forbidden.keys() <= known for domain in DOMAINS.values())


def test_ranges_are_narrowed_to_the_domain_and_training_says_what_is_left_out(capfd):
    params = section(domain="symbols", augment=["rotate", "resized_crop", "rand_augment"], rotation=30, crop_area=0.2)
    found = limits(params)
    assert (found.rotation, found.crop_area) == (10.0, 0.5)
    assert narrowed(params) == [
        "rand_augment without invert, solarize, equalize, saturation",
        "rand_augment with rotations of at most 10 degrees",
        "rotations of at most 10 degrees, not 30",
        "crops of at least 0.5 of the area, not 0.2",
    ]
    assert narrowed(section(domain="symbols", augment=["crop", "erase"])) == []
    stage.say_narrowed(params, setting(params).ranks)
    assert "domain symbols: rand_augment without invert" in capfd.readouterr().err


def test_two_kinds_of_crop_are_refused():
    with pytest.raises(ParamsError, match="keep one of them"):
        section(augment=["crop", "resized_crop"])


# --- larger decode, smaller epochs ------------------------------------------------------------------------------------


def test_images_are_decoded_as_large_as_the_smallest_crop_needs():
    assert decoded_side(96, section(augment=["crop"])) == 96
    assert decoded_side(96, section(augment=["resized_crop"], crop_area=0.25)) == 192
    assert decoded_side(96, section(augment=["resized_crop"], crop_area=0.08)) == 192
    assert decoded_side(100, section(augment=["resized_crop"], crop_area=0.64)) == 125
    assert decoded_side(96, section(augment=["resized_crop"], domain="symbols")) == 136


def test_the_stage_decodes_training_images_larger_and_trains_at_the_input_side(tmp_path):
    root, images = small_project.copy(tmp_path, "multiclass"), ImagesParams(resolution=32)
    crops = {"backbone": "test_vit3", "augment": ["resized_crop"], "epochs": UnfreezePhases(all=1)}
    params = SCRATCH.model_copy(update=crops)
    rows = network_rows(root)
    sides = {
        split: stage.inputs(root, split, rows[split], params, images)[0].shape[1] for split in ("train", "calibration")
    }
    assert sides == {"train": 64, "calibration": 32}
    stage.run(root, train_backbone=params, images=images)  # this network refuses images of any other side
    assert len((root / "artifacts/train_backbone/history.csv").read_text().splitlines()) == 2


def test_a_schedule_gives_each_share_an_equal_part_of_the_epochs():
    assert [epoch_side([0.5, 0.75, 1], 128, done, 6) for done in range(6)] == [64, 64, 96, 96, 128, 128]
    assert [epoch_side([0.5, 1], 64, done, 1) for done in range(1)] == [32]
    assert epoch_side([], 64, 0, 5) == 64
    assert epoch_side([0.25, 1], 32, 0, 5) == 32  # no smaller than networks can take


def test_the_network_gets_images_of_the_schedules_side_in_the_phase_that_trains_everything():
    params = section(resolution_schedule=[0.5, 1.0])
    everything, last = phases.Phase("all", 4, None), phases.Phase("last", 4, 2)
    sides = [Changes.of_epoch(params, everything, done, 96, 0).side for done in range(4)]
    assert sides == [48, 48, 96, 96]
    assert Changes.of_epoch(params, last, 0, 96, 0).side == 96


def test_a_schedule_changes_training_and_must_end_at_the_whole(plain):
    sets = [
        feeding.Examples(one.pixels.repeat(2, 1).repeat(2, 2), None, one.targets) for one in (examples(), examples(1))
    ]
    losses = [
        trainer.fit(small(), *sets, setting(ONE_EPOCH, resolution_schedule=shares))[1][0]["train_loss"]
        for shares in ([], [0.5, 1.0])
    ]
    assert losses[0] != losses[1]
    with pytest.raises(ParamsError, match="expected 1, the resolution at which the model is used"):
        section(resolution_schedule=[1.0, 0.5])


def test_a_network_with_one_input_size_refuses_a_schedule_before_training():
    params = SCRATCH.model_copy(update={"backbone": "test_vit3", "resolution_schedule": [0.5, 1.0]})
    with pytest.raises(ParamsError, match="test_vit3 cannot take images of 32 pixels beside 64"):
        checks.check_schedule(timm_models.create_model("test_vit3", "none", 3, 64), params, 64)
    checks.check_schedule(small(), params, 64)
