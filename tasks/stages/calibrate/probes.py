"""Images on which a model's out-of-distribution score is measured: far ones, near ones, known ones.

N images, S the side of the model's input in pixels.
"""

from collections.abc import Sequence

import numpy as np

from tasks.scoring.corruptions import corrupt

FAR_IMAGES = 64  # of each kind
SHIFTS = ("dark", "blur", "noise", "jpeg")  # corruptions that leave an image known


def far(size: int, count: int = FAR_IMAGES) -> dict[str, np.ndarray]:
    """Images that no classifier should find familiar, by name, (count, size, size, 3) uint8."""
    rng = np.random.default_rng(0)
    flat = rng.integers(0, 256, (count, 1, 1, 3), np.uint8)
    return {
        "noise": rng.integers(0, 256, (count, size, size, 3), np.uint8),
        "flat": np.broadcast_to(flat, (count, size, size, 3)).copy(),
        "texture": np.stack([_texture(rng, size) for _ in range(count)]),
    }


def _texture(rng: np.random.Generator, size: int) -> np.ndarray:
    """(size, size, 3) uint8: a few random colours, repeated as tiles or faded into one another."""
    from PIL import Image

    side = int(rng.integers(2, 9))
    tile = rng.integers(0, 256, (side, side, 3), np.uint8)
    if rng.random() < 0.5:
        times = -(-size // side)
        return np.tile(tile, (times, times, 1))[:size, :size]
    return np.asarray(Image.fromarray(tile).resize((size, size), Image.Resampling.BICUBIC))


def near(pixels: np.ndarray, strata: np.ndarray, seed: int = 0) -> dict[str, np.ndarray]:
    """Images between classes, by name, each as `pixels` (N, S, S, 3): halves of two, both at once, patches shuffled.

    strata: (N,) class of each image. With one class only the shuffled ones remain.
    """
    rng = np.random.default_rng(seed)
    found = {"shuffled": np.stack([_shuffled(rng, image) for image in pixels])}
    if len(np.unique(strata)) > 1:
        other = pixels[[rng.choice(np.flatnonzero(strata != own)) for own in strata]]
        found["mixed"] = ((pixels.astype(np.uint16) + other) // 2).astype(np.uint8)
        found["cut"] = pixels.copy()
        half = pixels.shape[2] // 2
        found["cut"][:, :, half:] = other[:, :, half:]
    return found


def shifted(pixels: np.ndarray, ids: Sequence[str]) -> dict[str, np.ndarray]:
    """The same images as another camera might see them, by name of the corruption, each as `pixels` (N, S, S, 3)."""
    return {
        name: np.stack([corrupt(name, image, id_) for image, id_ in zip(pixels, ids, strict=True)]) for name in SHIFTS
    }


def _shuffled(rng: np.random.Generator, image: np.ndarray, parts: int = 4) -> np.ndarray:
    """`image` (S, S, 3) as parts x parts patches in another order; what does not divide stays."""
    side = len(image) // parts
    starts = range(0, side * parts, side)
    places = [(slice(y, y + side), slice(x, x + side)) for y in starts for x in starts]
    found = image.copy()
    for place, source in zip(places, rng.permutation(len(places)), strict=True):
        found[place] = image[places[source]]
    return found
