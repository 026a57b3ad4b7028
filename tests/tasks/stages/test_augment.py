"""Random changes of training images: each does what its name says, its own way, and repeatably."""

import math

import pytest
import torch

from tasks.stages.train_backbone.augment.apply import augment, shrink
from tasks.stages.train_backbone.augment.colour import ERASE_AREA, erase, hue_turned
from tasks.stages.train_backbone.augment.geometry import (
    CROP_AREA,
    projective,
    random_affine,
    resample,
    resample_projective,
)
from tasks.stages.train_backbone.augment.limits import Limits

EVERYTHING = ["crop", "flip", "rotate", "colour", "erase"]
ALSO = ["resized_crop", "vertical_flip", "affine", "perspective", "hue", "grey"]


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


@pytest.mark.parametrize("name", [*EVERYTHING, *ALSO])
def test_each_change_keeps_shape_type_and_finite_values(name):
    for batch in (0, 1, 9):
        images = torch.randn(batch, 3, 20, 20)
        changed = augment(images, [name], generator())
        assert changed.shape == images.shape
        assert changed.dtype == images.dtype
        assert torch.isfinite(changed).all()
        assert batch < 9 or not torch.equal(changed, images)


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


# --- crops from a larger image, and distortions -----------------------------------------------------------------------


def test_a_resized_crop_keeps_down_to_the_area_that_is_set():
    theta = random_affine(400, {"resized_crop"}, generator(), Limits(crop_area=0.1))
    area = theta[:, 0, 0] * theta[:, 1, 1]
    assert 0.1 - 1e-4 <= area.min() < 0.2
    assert 0.9 < area.max() <= 1
    reach = torch.stack([theta[:, 0, 0] + theta[:, 0, 2].abs(), theta[:, 1, 1] + theta[:, 1, 2].abs()])
    assert reach.max() <= 1 + 1e-5  # never over the border


def test_a_small_crop_of_a_larger_image_shows_its_fine_detail():
    fine = torch.zeros(1, 1, 32, 32)
    fine[..., ::2] = 1.0  # stripes of one pixel, which an image of half the side cannot show
    quarter = torch.tensor([[[0.5, 0, -0.5], [0, 0.5, -0.5]]])  # the upper left quarter
    assert torch.allclose(resample(fine, quarter, 16), fine[..., :16, :16], atol=1e-5)


@pytest.mark.parametrize("names", [["flip"], ["resized_crop"], ["colour"], []])
def test_larger_images_come_out_at_the_side_of_the_input_and_keep_their_brightness(names):
    images = torch.full((3, 3, 64, 64), 0.5) + gradient(3, 64)
    changed = augment(images, names, generator(), Limits(crop_area=0.9), side=16)
    assert changed.shape == (3, 3, 16, 16)
    assert changed[:, 2].mean() == pytest.approx(1.5, abs=0.4)


def test_shrinking_averages_the_pixels_that_one_replaces():
    fine = torch.zeros(1, 1, 32, 32)
    fine[..., ::2] = 1.0
    inner = shrink(fine, 16)[..., 2:-2]
    assert torch.allclose(inner, torch.full_like(inner, 0.5), atol=0.13)


def test_a_vertical_flip_turns_images_upside_down_in_about_half_of_the_images():
    images = torch.randn(200, 3, 8, 8, generator=generator(1))
    changed = augment(images, ["vertical_flip"], generator())
    turned = torch.isclose(changed, images.flip(-2), atol=1e-5).flatten(1).all(dim=1)
    assert 70 <= turned.sum() <= 130
    assert torch.allclose(changed[~turned], images[~turned], atol=1e-5)


def test_rotations_use_the_range_that_is_set():
    for most in (5.0, 90.0):
        turn = random_affine(300, {"rotate"}, generator(), Limits(rotation=most))[:, :, :2]
        degrees = torch.rad2deg(torch.atan2(turn[:, 1, 0], turn[:, 0, 0])).abs()
        assert 0.9 * most < degrees.max() <= most + 1e-3


def test_an_affine_change_zooms_shears_and_moves_within_its_ranges():
    theta = random_affine(500, {"affine"}, generator())
    zoom, shear, move = theta[:, 1, 1], theta[:, 0, 1] / theta[:, 1, 1], theta[:, :, 2]
    assert 0.8 <= zoom.min() < 0.85
    assert 1.2 < zoom.max() <= 1.25
    assert 0.15 < shear.abs().max() <= math.tan(math.radians(10))
    assert 0.18 < move.abs().max() <= 0.2
    assert torch.equal(theta[:, 1, 0], torch.zeros(500))


def test_a_projective_map_takes_the_corners_where_they_are_moved():
    corners = torch.tensor([[-1.0, -1], [1, -1], [1, 1], [-1, 1]])
    moved = 0.25 * (2 * torch.rand(5, 4, 2, generator=generator()) - 1)
    seen = projective(moved) @ torch.cat([corners, torch.ones(4, 1)], dim=1).T
    assert torch.allclose((seen[:, :2] / seen[:, 2:]).transpose(1, 2), corners + moved, atol=1e-4)
    assert torch.allclose(projective(torch.zeros(1, 4, 2))[0], torch.eye(3), atol=1e-6)


def test_an_identical_projection_and_an_affine_one_agree():
    images = torch.randn(4, 3, 16, 16, generator=generator(1))
    theta = random_affine(4, {"crop", "rotate"}, generator())
    square = torch.cat([theta, torch.tensor([0.0, 0, 1]).expand(4, 1, 3)], dim=1)
    assert torch.allclose(resample_projective(images, square, 16), resample(images, theta), atol=1e-4)


# --- colours ----------------------------------------------------------------------------------------------------------


def test_a_third_of_a_turn_of_the_hue_moves_each_channel_on_and_grey_stays():
    images = torch.randn(2, 3, 4, 4, generator=generator())
    third = torch.full((2,), 2 * math.pi / 3)
    assert torch.allclose(hue_turned(images, third), images.roll(1, dims=1), atol=1e-5)
    grey = torch.randn(2, 1, 4, 4, generator=generator()).expand(2, 3, 4, 4)
    assert torch.allclose(hue_turned(grey, torch.tensor([0.3, -2.0])), grey, atol=1e-5)


def test_about_a_fifth_of_the_images_lose_their_colours():
    images = torch.randn(500, 3, 4, 4, generator=generator(1))
    changed = augment(images, ["grey"], generator())
    lost = torch.isclose(changed, images.mean(dim=1, keepdim=True).expand_as(images)).flatten(1).all(dim=1)
    assert 60 <= lost.sum() <= 140
    assert torch.equal(changed[~lost], images[~lost])
