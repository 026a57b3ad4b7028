"""Policies of augmentation: their operations do what they say, and stay within the domain."""

from collections import Counter

import numpy as np
import pytest
from PIL import Image

from tasks.stages.train_backbone.augment.limits import POLICIES, Limits
from tasks.stages.train_backbone.augment.policies import (
    DRAW,
    OPERATIONS,
    changed_pixels,
    imagenet_pairs,
    performed,
    values,
)

SYMBOLS = Limits(left_out=("invert", "solarize", "equalize", "saturation"), policy_rotation=10.0)


def picture(side: int = 16) -> Image.Image:
    """Three columns of red, grey and blue, brighter from top to bottom."""
    pixels = np.zeros((side, side, 3), np.uint8)
    light = np.linspace(60, 200, side).astype(np.uint8)[:, None]
    pixels[:, : side // 3, 0] = light
    pixels[:, side // 3 : 2 * side // 3] = light[..., None]
    pixels[:, 2 * side // 3 :, 2] = light
    return Image.fromarray(pixels)


def seen_after(name: str, amount: float) -> np.ndarray:
    return np.asarray(OPERATIONS[name].apply(picture(), amount)).astype(int)


def test_each_operation_does_what_its_name_says():
    before = np.asarray(picture()).astype(int)
    assert np.array_equal(seen_after("identity", 0.5), before)
    assert np.array_equal(seen_after("invert", 0), 255 - before)
    assert np.array_equal(seen_after("solarize", 0.5), np.where(before < 128, before, 255 - before))
    assert np.array_equal(seen_after("posterize", 4), before // 16 * 16)
    assert (
        seen_after("brightness", 0.5).mean()
        > 1.2 * before.mean()
        > before.mean()
        > seen_after("brightness", -0.5).mean()
    )
    assert np.ptp(seen_after("saturation", -1.0), axis=2).max() <= 1
    assert seen_after("contrast", -0.9).std() < 0.2 * before.std()
    assert seen_after("auto_contrast", 0).max() > 250
    assert np.array_equal(seen_after("translate_x", 0.25)[:, :12], before[:, 4:])  # what was 4 to the right
    assert np.array_equal(seen_after("translate_y", 0.25)[:12], before[4:])
    assert np.array_equal(seen_after("rotate", 90), np.rot90(before))
    assert (seen_after("translate_x", 0.25)[:, 12:] == 128).all()  # the ground is grey
    for name in ("shear_x", "shear_y", "sharpness"):
        assert not np.array_equal(seen_after(name, 0.3), before)
    assert np.ptp(np.asarray(OPERATIONS["equalize"].apply(picture(64), 0))[..., 0]) > 240


def test_a_shear_keeps_the_middle_and_moves_the_edges_apart():
    sheared = seen_after("shear_x", 0.3)
    top, bottom = (int((sheared[row, :, 2] > sheared[row, :, 0] + 20).argmax()) for row in (1, 14))
    assert top > bottom


def test_the_same_seed_gives_the_same_images_and_another_seed_others():
    pixels = np.stack([np.asarray(picture())] * 12)
    for name in POLICIES:
        first, again, other = (
            changed_pixels(pixels, [name], Limits(), np.random.default_rng(seed)) for seed in (1, 1, 2)
        )
        assert np.array_equal(first, again)
        assert not np.array_equal(first, other)
        assert not np.array_equal(first, pixels)


@pytest.mark.parametrize("name", POLICIES)
def test_what_the_domain_leaves_out_is_never_drawn(name):
    rng = np.random.default_rng(0)
    drawn = Counter(step[0] for _ in range(500) for step in DRAW[name](SYMBOLS, rng))
    everything = Counter(step[0] for _ in range(500) for step in DRAW[name](Limits(), rng))
    assert not drawn.keys() & set(SYMBOLS.left_out)
    assert everything.keys() & set(SYMBOLS.left_out)
    assert drawn["rotate"]


def test_policies_turn_no_further_than_the_domain_allows():
    seen = []
    for limits in (Limits(), SYMBOLS):
        seen.append({values([("rotate", 1.0, True)], limits, np.random.default_rng(seed))[0][1] for seed in range(9)})
    assert seen == [{-135.0, 135.0}, {-10.0, 10.0}]
    turned = performed(np.asarray(picture()), [("rotate", 10.0)])
    assert np.array_equal(turned, picture().rotate(10, Image.Resampling.BILINEAR, fillcolor=(128,) * 3))


def test_the_number_of_threads_does_not_matter():
    pixels = np.stack([np.asarray(picture())] * 12)
    alone, together = (
        changed_pixels(pixels, POLICIES, Limits(), np.random.default_rng(0), threads) for threads in (1, 4)
    )
    assert np.array_equal(alone, together)


def test_rand_augment_is_as_strong_as_set_and_trivial_augment_of_any_strength():
    rng = np.random.default_rng(0)
    rand = [DRAW["rand_augment"](Limits(magnitude=0.7), rng) for _ in range(50)]
    assert {len(steps) for steps in rand} == {2}
    assert {strength for steps in rand for _, strength, _ in steps} == {0.7}
    trivial = [DRAW["trivial_augment"](Limits(), rng) for _ in range(500)]
    assert {len(steps) for steps in trivial} == {1}
    assert len({strength for steps in trivial for _, strength, _ in steps}) == 31


def test_auto_augment_has_the_table_for_imagenet():
    pairs = imagenet_pairs()
    assert len(pairs) == 25
    assert pairs[0] == [("posterize", 0.4, 8 / 9), ("rotate", 0.6, 1.0)]
    assert {name for pair in pairs for name, _, _ in pair} <= OPERATIONS.keys()
