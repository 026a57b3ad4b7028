"""Random changes of training images: each does what its name says, to each image its own way, and repeatably."""

import pytest
import torch

from tasks.stages.train_backbone.augment import CROP_AREA, ERASE_AREA, augment, erase, random_affine, resample

EVERYTHING = ["crop", "flip", "rotate", "colour", "erase"]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gradient(batch: int, side: int = 32) -> torch.Tensor:
    """(B, 3, S, S): channel 0 is x, channel 1 is y, each from -1 to 1 at the image's edges; channel 2 is 1."""
    at = (torch.arange(side) + 0.5) / side * 2 - 1
    x, y = at.expand(side, side), at[:, None].expand(side, side)
    return torch.stack([x, y, torch.ones(side, side)]).repeat(batch, 1, 1, 1)


def test_the_same_seed_gives_the_same_images_and_another_seed_others():
    images = torch.randn(6, 3, 16, 16, generator=generator())
    first, second = (augment(images, EVERYTHING, generator(3)) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, augment(images, EVERYTHING, generator(4)))
    assert not torch.equal(first[0], first[1])


def test_nothing_asked_for_changes_nothing():
    images = torch.randn(2, 3, 8, 8)
    assert augment(images, [], generator()) is images


@pytest.mark.parametrize("name", EVERYTHING)
def test_each_change_keeps_shape_type_and_finite_values(name):
    for batch in (0, 1, 5):
        images = torch.randn(batch, 3, 20, 20)
        changed = augment(images, [name], generator())
        assert changed.shape == images.shape
        assert changed.dtype == images.dtype
        assert torch.isfinite(changed).all()
        assert batch < 5 or not torch.equal(changed, images)


def test_a_crop_shows_one_part_of_the_image_undistorted():
    images = gradient(64)
    changed = augment(images, ["crop"], generator())
    x, y = changed[:, 0], changed[:, 1]
    inner = slice(2, -2)  # at the very edge the mirrored border takes part
    assert torch.allclose(x[:, 5], x[:, 20], atol=1e-4)  # x does not depend on the row: not turned
    assert (x[:, 5, 1:] > x[:, 5, :-1])[:, inner].all()  # nor flipped
    assert changed.abs().max() <= 1 + 1e-4  # nothing from outside
    width, height = (x[:, 5, -3] - x[:, 5, 2]) / (27 / 16), (y[:, -3, 5] - y[:, 2, 5]) / (27 / 16)
    area = width * height
    assert area.min() >= CROP_AREA[0] - 0.02
    assert area.max() <= CROP_AREA[1] + 0.02
    assert area.std() > 0.05


def test_a_flip_mirrors_left_and_right_in_about_half_of_the_images():
    images = torch.randn(200, 3, 8, 8, generator=generator(1))
    changed = augment(images, ["flip"], generator())
    same = torch.isclose(changed, images, atol=1e-5).flatten(1).all(dim=1)
    mirrored = torch.isclose(changed, images.flip(-1), atol=1e-5).flatten(1).all(dim=1)
    assert (same ^ mirrored).all()
    assert 70 <= mirrored.sum() <= 130


def test_a_rotation_turns_about_the_centre_without_stretching():
    theta = random_affine(50, {"rotate"}, generator())
    turn = theta[:, :, :2]
    assert torch.allclose(turn @ turn.transpose(1, 2), torch.eye(2).expand(50, 2, 2), atol=1e-5)
    assert torch.allclose(torch.linalg.det(turn), torch.ones(50), atol=1e-5)
    assert torch.equal(theta[:, :, 2], torch.zeros(50, 2))
    assert turn[:, 0, 1].abs().max() > 0.1


def test_geometry_is_one_resampling_not_several():
    images = torch.randn(8, 3, 16, 16, generator=generator(1))
    expected = resample(images, random_affine(8, {"crop", "flip", "rotate"}, generator()))
    assert torch.equal(augment(images, ["rotate", "crop", "flip"], generator()), expected)


def test_colour_moves_no_edges():
    images = torch.randn(20, 3, 1, 1).expand(20, 3, 8, 8).clone()
    images[:, :, :, 4:] += 2  # an edge down the middle
    changed = augment(images, ["colour"], generator())
    step = changed[:, :, :, 4:].mean(dim=(2, 3)) - changed[:, :, :, :4].mean(dim=(2, 3))
    assert (step > 1).all()
    assert (step < 3).all()
    assert torch.allclose(changed[..., :4], changed[..., :1].expand(-1, -1, -1, 4), atol=1e-5)


def test_erasing_hides_one_rectangle_in_some_images_and_all_channels_alike():
    images = torch.ones(200, 3, 32, 32)
    hidden = erase(images, generator()) == 0
    assert torch.equal(hidden[:, 0], hidden[:, 2])
    touched = hidden[:, 0].flatten(1).any(dim=1)
    assert 60 <= touched.sum() <= 140
    for mask in hidden[touched, 0]:
        rows, columns = mask.any(dim=1), mask.any(dim=0)
        assert torch.equal(mask, rows[:, None] & columns[None, :])  # a full rectangle
        assert rows.sum() == rows.nonzero().max() - rows.nonzero().min() + 1  # in one piece
        assert mask.float().mean() <= ERASE_AREA[1] * 1.3
