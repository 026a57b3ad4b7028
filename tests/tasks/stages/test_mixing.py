"""MixUp and CutMix: images and losses are mixed in the same shares, by hand-computed values."""

from functools import partial

import pytest
import torch

from tasks.stages.train_backbone.augment.mixing import Mixture, cut_in, mix, mixed_losses
from tasks.stages.train_backbone.losses import sample_losses


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def numbered(batch: int, side: int = 8) -> torch.Tensor:
    """(B, 1, S, S): image i is filled with i."""
    return torch.arange(batch).float()[:, None, None, None].expand(batch, 1, side, side).clone()


def test_nothing_asked_for_mixes_nothing():
    images = numbered(3)
    assert mix(images, [], generator()) == (images, None)


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_each_image_is_its_own_share_and_the_rest_of_its_partner(name):
    images = numbered(64)
    mixed, mixture = mix(images, [name], generator())
    expected = mixture.share * torch.arange(64) + (1 - mixture.share) * mixture.partner
    assert torch.allclose(mixed.mean(dim=(1, 2, 3)), expected, atol=1e-4)
    assert torch.equal(mixture.partner.sort().values, torch.arange(64))
    assert 0 <= mixture.share.min() < 0.4
    assert 0.7 < mixture.share.max() <= 1
    assert mixture.share.std() > 0.1
    assert torch.equal(mix(images, [name], generator())[0], mixed)
    assert not torch.equal(mix(images, [name], generator(1))[0], mixed)


def test_cutmix_cuts_one_square_of_the_partner_in():
    images, partner = numbered(2), torch.tensor([1, 0])
    mixed, mixture = cut_in(images, partner, torch.tensor([0.75, 0.75]), torch.tensor([[0.5, 0.5], [0.0, 0.5]]))
    inner = torch.zeros(8, 8)
    inner[2:6, 2:6] = 1
    assert torch.equal(mixed[0, 0], inner)
    assert mixture.share.tolist() == [0.75, 0.875]  # half of the second square lies outside
    assert torch.equal(mixed[1, 0, 2:6, :2], torch.zeros(4, 2))
    assert mixed[1].sum() == 64 - 8


def test_with_both_names_some_batches_get_either():
    images = numbered(16)
    drawn = [mix(images, ["mixup", "cutmix"], generator(seed))[0] for seed in range(12)]
    whole = [bool(torch.equal(mixed, mixed.round())) for mixed in drawn]  # CutMix makes no pixel between two images
    assert set(whole) == {True, False}


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_of_a_mixture_is_cross_entropy_with_the_mixed_label(smoothing):
    logits = torch.randn(4, 3, generator=generator())
    targets, partner = torch.tensor([0, 1, 2, 0]), torch.tensor([3, 2, 0, 1])
    share = torch.tensor([1.0, 0.25, 0.5, 0.9])
    found = mixed_losses(partial(sample_losses, logits, smoothing=smoothing), targets, Mixture(partner, share))
    one_hot = torch.nn.functional.one_hot(targets, 3) * (1 - smoothing) + smoothing / 3
    label = share[:, None] * one_hot + (1 - share[:, None]) * one_hot[partner]
    assert torch.allclose(found, -(label * logits.log_softmax(dim=1)).sum(dim=1), atol=1e-6)
    assert torch.equal(mixed_losses(partial(sample_losses, logits), targets, None), sample_losses(logits, targets))
