"""Each of these settings of train_backbone changes the training: a test fails if the stage ignores it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from tasks.common.sections.training import UnfreezePhases
from tasks.stages.train_backbone import feeding, phases, trainer
from tests.support.small_training import SCRATCH, examples, setting, small

ONCE = SCRATCH.model_copy(update={"epochs": UnfreezePhases(frozen=0, last=0, all=1), "augment": []})


def long_tail(multilabel: bool = False) -> feeding.Examples:
    """18 images: 12, 4 and 2 of three classes."""
    whole, rows = examples(multilabel=multilabel), [*range(12), 12, 13, 14, 15, 24, 25]
    return replace(whole, pixels=whole.pixels[rows], features=whole.features[rows], targets=whole.targets[rows])


def trained(multilabel: bool = False, **changes) -> Tensor:
    """All weights after one epoch from the same start."""
    train = long_tail(multilabel)
    state, _ = trainer.fit(small(), train, train, setting(ONCE, **changes))
    return torch.cat([value.flatten().float() for value in state.values()])


@pytest.fixture(scope="module")
def plain() -> Tensor:
    return trained()


@pytest.mark.parametrize(
    "changes",
    [
        {"label_smoothing": 0.2},
        {"precision": "bfloat16"},
        {"augment": ["flip"]},
        {"rare_augment": ["flip"]},
        *({"loss": name} for name in ("class_weighted", "focal", "class_balanced", "ldam_drw", "logit_adjusted")),
        {"loss": "balanced_softmax"},
        *({"sampler": name} for name in ("stratified", "class_balanced", "square_root", "progressive", "undersample")),
        *({"sampler": name} for name in ("repeat_factor", "oversample")),
    ],
    ids=str,
)
def test_each_setting_changes_the_trained_network(plain, changes):
    assert not torch.equal(trained(**changes), plain)


def test_the_same_settings_give_the_same_network(plain):
    assert torch.equal(trained(), plain)


def test_the_asymmetric_loss_changes_a_multi_label_network():
    assert not torch.equal(trained(True, loss="asymmetric"), trained(True))


def test_ldam_reweights_in_the_last_fifth_only():
    """The weights of two epochs differ from those of LDAM without them; after the first of two, they do not."""
    seen = []

    def losses(name: str, epochs: int) -> list[float]:
        how = setting(ONCE, loss=name, epochs=UnfreezePhases(frozen=0, last=0, all=epochs))
        return [row["train_loss"] for row in trainer.fit(small(), long_tail(), long_tail(), how)[1]]

    seen = losses("ldam_drw", 2)
    assert seen[0] != losses("cross_entropy", 2)[0]
    assert seen[0] != losses("ldam_drw", 1)[0]  # its only epoch is re-weighted, the first of two is not


def test_images_lie_channels_last_in_training_and_prediction():
    model, formats = small(), []
    first = next(module for module in model.modules() if isinstance(module, torch.nn.Conv2d))

    def note(module, given):
        weight = module.weight.is_contiguous(memory_format=torch.channels_last)
        formats.append((module.training, weight and given[0].is_contiguous(memory_format=torch.channels_last)))

    first.register_forward_pre_hook(note)
    for changes in ({}, {"augment": ["crop", "erase"]}, {"rare_augment": ["crop"]}):
        trainer.fit(model, long_tail(), long_tail(), setting(ONCE, **changes))
    assert {training for training, _ in formats} == {True, False}
    assert all(last for _, last in formats)


def test_oversampling_trains_on_as_many_images_as_every_class_having_the_most():
    images = []
    train, how = long_tail(), setting(ONCE, sampler="oversample")
    phase = phases.plan(how.params)[0]
    model = small()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    trainer.train_epoch(model, optimizer, train, how, phase, 1, 0, images.append)
    assert images[-1] == 36
    assert np.bincount(train.targets).tolist() == [12, 4, 2]
