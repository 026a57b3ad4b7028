"""Image corruptions as cameras or networks cause them, at one fixed strength each.

Repeatable to the bit.

Applied to model input: uint8 (S, S, 3), S the side in pixels. Kinds and strengths follow the middle severities of
Hendrycks & Dietterich 2019, "Benchmarking neural network robustness to common corruptions"; lengths are shares of S, so
that a strength means the same at any size. The image's id seeds noise, direction and place: every model gets the same,
in any order of images.
"""

import io
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageFilter

DARK = 0.4  # share of the light that is left
BLUR = 0.02  # standard deviation, of S
NOISE = 20.0  # standard deviation, of 255
JPEG = 15  # quality
CROP = 0.75  # share of the side that is left
MOTION = 0.1  # length of the path, of S
OCCLUSION = 0.4  # side of the square, of S: 16 % of the image


def corrupt(name: str, pixels: np.ndarray, id_: str) -> np.ndarray:
    """`pixels` (S, S, 3) uint8 under the corruption `name` (a key of CORRUPTIONS); id_: sha256 of the image."""
    return CORRUPTIONS[name](pixels, id_)


def _dark(pixels: np.ndarray, id_: str) -> np.ndarray:
    return np.round(pixels * DARK).astype(np.uint8)


def _blur(pixels: np.ndarray, id_: str) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(BLUR * len(pixels))))


def _noise(pixels: np.ndarray, id_: str) -> np.ndarray:
    rng = _rng(id_)
    return np.clip(np.round(pixels + rng.normal(0, NOISE, pixels.shape)), 0, 255).astype(np.uint8)


def _jpeg(pixels: np.ndarray, id_: str) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=JPEG)
    return np.asarray(Image.open(buffer).convert("RGB"))


def _grayscale(pixels: np.ndarray, id_: str) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels).convert("L").convert("RGB"))


def _crop(pixels: np.ndarray, id_: str) -> np.ndarray:
    """The middle of the image, enlarged: what a closer camera sees."""
    side = len(pixels)
    edge = side * (1 - CROP) / 2
    box = (edge, edge, side - edge, side - edge)
    return np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC, box=box))


def _motion_blur(pixels: np.ndarray, id_: str) -> np.ndarray:
    """A shake along a straight path, in a direction of the image's own; the edge goes on beyond the image."""
    side, steps = len(pixels), max(2, round(MOTION * len(pixels)))
    angle = _rng(id_).uniform(0, np.pi)
    along = np.arange(steps) - (steps - 1) / 2
    moved = np.rint(np.outer(along, (np.sin(angle), np.cos(angle)))).astype(int) + steps
    wide = np.pad(pixels, ((steps, steps), (steps, steps), (0, 0)), mode="edge")
    light = np.zeros(pixels.shape)
    for row, column in moved:
        light += wide[row : row + side, column : column + side]
    return np.round(light / steps).astype(np.uint8)


def _occlusion(pixels: np.ndarray, id_: str) -> np.ndarray:
    """A grey square hides a part, at a place of the image's own."""
    edge = round(OCCLUSION * len(pixels))
    row, column = _rng(id_).integers(0, len(pixels) - edge + 1, 2)
    hidden = pixels.copy()
    hidden[row : row + edge, column : column + edge] = 128
    return hidden


def _rng(id_: str) -> np.random.Generator:
    return np.random.default_rng(int(id_[:16], 16))


CORRUPTIONS: dict[str, Callable[[np.ndarray, str], np.ndarray]] = {
    "dark": _dark,
    "blur": _blur,
    "noise": _noise,
    "jpeg": _jpeg,
    "grayscale": _grayscale,
    "crop": _crop,
    "motion_blur": _motion_blur,
    "occlusion": _occlusion,
}
