"""Images on which a model's out-of-distribution score is measured: far ones, near ones, known ones.

N images, S the side of the model's input in pixels.
"""

import numpy as np

FAR_IMAGES = 64  # of each kind


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
