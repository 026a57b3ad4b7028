"""Does an export answer as the model that it was made from?

N images, S the side of the input in pixels, K classes, D feature dimensions.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tasks.common.errors import EvergreenError
from tasks.dataset.decode import PREPROCESS, preprocess
from tasks.export.images import odd_images
from tasks.export.source import Source
from tasks.inference.onnx_model import OnnxModel, Outputs

RELATIVE = 10  # times the bound: what logits and features may differ by, relative to their largest value
MAX_PIXELS = 4_000_000  # of the odd images, whatever the bundle's own limit is
Run = Callable[[np.ndarray], Outputs]


class ParityFailed(EvergreenError):
    """An export answers differently from its model; the text names the image."""


@dataclass(frozen=True)
class Difference:
    """The largest differences over all images."""

    probabilities: float  # absolute
    logits: float  # relative to the largest logit
    features: float  # relative to the largest feature
    worst: int  # number of the image whose probabilities differ most

    def within(self, bound: float) -> bool:
        """False also if anything is NaN."""
        return self.probabilities <= bound and max(self.logits, self.features) <= RELATIVE * bound


def odd_pixels(source: Source) -> tuple[list[str], np.ndarray]:
    """(what each image is, (N, S, S, 3) uint8): the odd images as the bundle's own preprocessing sees them."""
    spec = source.about["preprocess"]
    spec = spec | {"max_pixels": max(MAX_PIXELS, spec["max_pixels"])}
    names, images = zip(*odd_images(), strict=True)
    pixels = [preprocess(data, *(spec.get(key) for key in PREPROCESS)) for data in images]
    return list(names), np.stack(pixels)


def compare(found: Outputs, expected: Outputs) -> Difference:
    """How far `found` is from `expected`. Raises ValueError if their shapes differ."""
    for name, one, other in zip(Outputs._fields, found, expected, strict=True):
        if one.shape != other.shape:
            raise ValueError(f"{name} have the shape {one.shape}, expected {other.shape}")
    apart = np.abs(found.probabilities - expected.probabilities).max(axis=1)
    worst = int(np.argmax(np.where(np.isnan(apart), np.inf, apart)))
    return Difference(
        probabilities=float(apart[worst]),
        logits=_relative(found.logits, expected.logits),
        features=_relative(found.features, expected.features),
        worst=worst,
    )


def check(source: Source, run: Run, sizes: Sequence[int], bound: float, what: str) -> tuple[Difference, int]:
    """(largest differences of `run` from model.onnx, number of images), on the odd images, `sizes` at once.

    Raises ParityFailed.
    """
    names, pixels = odd_pixels(source)
    expected = OnnxModel(source.model)(pixels)
    found = _largest([_compared(run, pixels, expected, size, what) for size in sizes])
    if not found.within(bound):
        raise ParityFailed(
            f"{what} answers differently from model.onnx of {source.version}: probabilities by "
            f"{found.probabilities:.3g} (most on: {names[found.worst]}), logits by {found.logits:.3g} and features by "
            f"{found.features:.3g} of their largest; expected at most {bound:g}, {RELATIVE * bound:g} and "
            f"{RELATIVE * bound:g}. Nothing was written; try other versions of the converter, or another format"
        )
    return found, len(pixels)


def _compared(run: Run, pixels: np.ndarray, expected: Outputs, size: int, what: str) -> Difference:
    parts = [run(pixels[start : start + size]) for start in range(0, len(pixels), size)]
    try:
        return compare(Outputs(*(np.concatenate(part) for part in zip(*parts, strict=True))), expected)
    except ValueError as error:
        raise ParityFailed(f"{what} does not answer as model.onnx does, {size} images at once: {error}") from None


def _largest(passes: Sequence[Difference]) -> Difference:
    worst = max(passes, key=lambda one: np.nan_to_num(one.probabilities, nan=np.inf))
    logits, features = (float(np.max([getattr(one, name) for one in passes])) for name in ("logits", "features"))
    return Difference(worst.probabilities, logits, features, worst.worst)


def _relative(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found - expected).max() / max(float(np.abs(expected).max()), 1e-12))


def by_name(names: Sequence[str], values: Sequence[np.ndarray]) -> Outputs:
    """`values` in the order of Outputs, for runtimes that answer in an order of their own."""
    found = dict(zip(names, values, strict=True))
    return Outputs(*(np.asarray(found[name], np.float32) for name in Outputs._fields))
