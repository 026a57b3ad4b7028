"""RandAugment, TrivialAugment and AutoAugment: random operations on the pixels of each image.

The operations are Pillow's, on uint8 images, in the thread that reads the batch, so the device does not wait for them.
Which operations, and how strong, comes from the generator that the caller passes. Strength is 0 to 1.
"""

import functools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from tasks.dataset.decode import GREY
from tasks.stages.train_backbone.augment.limits import POLICIES, Limits

RAND_OPERATIONS = 2  # a RandAugment image gets so many (N of Cubuk et al. 2020)
LEVELS = 31  # strengths that TrivialAugment draws from
AUTO_LEVELS = 10  # strengths that AutoAugment's table names


@dataclass(frozen=True)
class Operation:
    """`apply(image, value)`. The value at full strength is `most`, in TrivialAugment `widest`; `signed`: either way."""

    apply: Callable[[Image.Image, float], Image.Image]
    most: float = 0.0
    widest: float = 0.0
    signed: bool = False


def _affine(image: Image.Image, matrix: tuple[float, ...]) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR, fillcolor=GREY)


def _enhanced(kind: type) -> Operation:
    return Operation(lambda image, value: kind(image).enhance(1 + value), 0.9, 0.99, signed=True)


OPERATIONS = {
    "identity": Operation(lambda image, value: image),
    "shear_x": Operation(lambda i, v: _affine(i, (1, v, -v * i.height / 2, 0, 1, 0)), 0.3, 0.99, signed=True),
    "shear_y": Operation(lambda i, v: _affine(i, (1, 0, 0, v, 1, -v * i.width / 2)), 0.3, 0.99, signed=True),
    "translate_x": Operation(lambda i, v: _affine(i, (1, 0, v * i.width, 0, 1, 0)), 0.45, 0.45, signed=True),
    "translate_y": Operation(lambda i, v: _affine(i, (1, 0, 0, 0, 1, v * i.height)), 0.45, 0.45, signed=True),
    "rotate": Operation(lambda i, v: i.rotate(v, Image.Resampling.BILINEAR, fillcolor=GREY), 30.0, 135.0, signed=True),
    "brightness": _enhanced(ImageEnhance.Brightness),
    "saturation": _enhanced(ImageEnhance.Color),
    "contrast": _enhanced(ImageEnhance.Contrast),
    "sharpness": _enhanced(ImageEnhance.Sharpness),
    "posterize": Operation(lambda image, value: ImageOps.posterize(image, 8 - round(value)), 4.0, 6.0),
    "solarize": Operation(lambda image, value: ImageOps.solarize(image, round(255 * (1 - value))), 1.0, 1.0),
    "auto_contrast": Operation(lambda image, value: ImageOps.autocontrast(image)),
    "equalize": Operation(lambda image, value: ImageOps.equalize(image)),
    "invert": Operation(lambda image, value: ImageOps.invert(image)),
}
DRAWN = tuple(name for name in OPERATIONS if name != "invert")  # RandAugment and TrivialAugment; AutoAugment has invert

Step = tuple[str, float, bool]  # operation, strength, from TrivialAugment's wider range


def rand_augment(limits: Limits, rng: np.random.Generator) -> list[Step]:
    """Some operations, all at the strength that is set (Cubuk et al. 2020)."""
    allowed = [name for name in DRAWN if name not in limits.left_out]
    return [(str(name), limits.magnitude, False) for name in rng.choice(allowed, RAND_OPERATIONS)]


def trivial_augment(limits: Limits, rng: np.random.Generator) -> list[Step]:
    """One operation at any strength (Müller and Hutter 2021, the wide range)."""
    allowed = [name for name in DRAWN if name not in limits.left_out]
    return [(str(rng.choice(allowed)), float(rng.integers(LEVELS)) / (LEVELS - 1), True)]


def auto_augment(limits: Limits, rng: np.random.Generator) -> list[Step]:
    """One of the pairs of operations that a search on ImageNet found (Cubuk et al. 2019)."""
    pairs = imagenet_pairs()
    chosen = pairs[rng.integers(len(pairs))]
    drawn = [(name, level) for name, chance, level in chosen if rng.random() < chance]
    return [(name, level, False) for name, level in drawn if name not in limits.left_out]


@functools.cache
def imagenet_pairs() -> list[list[tuple[str, float, float]]]:
    """AutoAugment's table for ImageNet, as torchvision has it: pairs of (operation, chance, strength)."""
    from tasks.backbones.torchvision_ops import make_timm_importable

    make_timm_importable()
    from torchvision.transforms import AutoAugment

    names = {name.replace("_", ""): name for name in OPERATIONS} | {"color": "saturation"}
    return [
        [(names[name.lower()], chance, (level or 0) / (AUTO_LEVELS - 1)) for name, chance, level in pair]
        for pair in AutoAugment().policies
    ]


DRAW = dict(zip(POLICIES, (rand_augment, trivial_augment, auto_augment), strict=True))


def values(steps: Sequence[Step], limits: Limits, rng: np.random.Generator) -> list[tuple[str, float]]:
    """(operation, value) of each step, with a random sign where it has one; rotations stay in the domain's range."""
    found = []
    for name, strength, wide in steps:
        operation = OPERATIONS[name]
        value = strength * (operation.widest if wide else operation.most)
        if name == "rotate":
            value = min(value, limits.policy_rotation)
        found.append((name, -value if operation.signed and rng.random() < 0.5 else value))
    return found


def performed(pixels: np.ndarray, operations: Sequence[tuple[str, float]]) -> np.ndarray:
    """`pixels` (S, S, 3) uint8 after each (operation, value)."""
    image = Image.fromarray(pixels)
    for name, value in operations:
        image = OPERATIONS[name].apply(image, value)
    return np.asarray(image)


def changed_pixels(
    pixels: np.ndarray, names: Sequence[str], limits: Limits, rng: np.random.Generator, threads: int = 1
) -> np.ndarray:
    """`pixels` (B, S, S, 3) uint8 with each image changed by the policies in `names`, in their order.

    Everything random is drawn first, so the number of `threads` does not matter. Pillow works without Python's lock.
    """
    todo = [[one for name in names for one in values(DRAW[name](limits, rng), limits, rng)] for _ in pixels]
    if threads == 1:
        return np.stack(list(map(performed, pixels, todo)))
    with ThreadPoolExecutor(threads) as pool:
        return np.stack(list(pool.map(performed, pixels, todo)))


@dataclass(frozen=True)
class WithPolicies:
    """`inputs` (N, S, S, 3) uint8 whose rows are changed each time they are read."""

    inputs: object
    names: tuple[str, ...]
    limits: Limits
    rng: np.random.Generator
    threads: int

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        return changed_pixels(self.inputs[rows], self.names, self.limits, self.rng, self.threads)
