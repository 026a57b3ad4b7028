"""The image sets of benchmarks.long_tail, decoded into arrays: N images, K classes, S the side in pixels.

Train and calibration have a long tail. Test has others, or is balanced where the set has such a part.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from tasks.dataset.decode import preprocess

MAX_PIXELS = 50_000_000
RATIO = 100  # of the largest class to the smallest, where the long tail is made
MOST_TESTED = 400  # test images of a class: enough for its recall, and quick to decode
HELD = 0.2  # calibration images for each training image, at least 2 of each class


@dataclass(frozen=True)
class Part:
    """`pixels` (N, S, S, 3) uint8, `targets` (N,) class numbers."""

    pixels: np.ndarray
    targets: np.ndarray


@dataclass(frozen=True)
class Encoded:
    """The images of a Parquet file as bytes, their class numbers (N,), and their split (N,) or None."""

    images: list[bytes]
    targets: np.ndarray
    split: np.ndarray | None = None

    def part(self, rows: np.ndarray, side: int) -> Part:
        """The images `rows`, decoded to `side` pixels as every stage decodes them."""
        pixels = [preprocess(self.images[row], side, "squash", MAX_PIXELS, None) for row in rows]
        return Part(np.stack(pixels), self.targets[rows])


def read(file: Path, label: str = "label") -> Encoded:
    """The images of `file`, classes numbered in order of their names."""
    table = pq.read_table(file)
    images = [image["bytes"] for image in table["image"].to_pylist()]
    targets = np.unique(table[label].to_numpy(zero_copy_only=False).astype(str), return_inverse=True)[1]
    split = table["split"].to_numpy(zero_copy_only=False).astype(str) if "split" in table.column_names else None
    return Encoded(images, targets, split)


def tail_counts(most: int, classes: int, ratio: int = RATIO) -> np.ndarray:
    """(K,) images of each class: `most` of the first, falling exponentially to `most` / `ratio` (Cui et al. 2019)."""
    return np.round(most * float(ratio) ** (-np.arange(classes) / (classes - 1))).astype(int)


def drawn(targets: np.ndarray, wanted: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Rows of train (`wanted` (K,) of each class), calibration (HELD times as many, at least 2) and test.

    Test has MOST_TESTED of the others. A class without images for calibration has none there.
    """
    rows: dict[str, list[np.ndarray]] = {"train": [], "calibration": [], "test": []}
    for k, count in enumerate(wanted):
        of_class = rng.permutation(np.flatnonzero(targets == k))
        cuts = [count, count + max(2, round(HELD * count))]
        for split, part in zip(rows, np.split(of_class, cuts), strict=True):
            rows[split].append(part[:MOST_TESTED] if split == "test" else part)
    return {split: np.concatenate(parts) for split, parts in rows.items()}


def cifar(train: Path, test: Path, most: int) -> Callable[[int, int], dict[str, Part]]:
    """CIFAR-10 with a long tail of `most` images in its first class; test is the balanced test set.

    With all 5,000 no image is left for calibration in the first class: training images choose the epoch, which is the
    last one then.
    """

    def parts(seed: int, side: int) -> dict[str, Part]:
        source = read(train, "clean_label")
        rows = drawn(source.targets, tail_counts(most, 10), np.random.default_rng(seed))
        if most == np.bincount(source.targets).max():
            rows["calibration"] = rows["train"][::10]
        held = read(test)
        return {name: source.part(rows[name], side) for name in ("train", "calibration")} | {
            "test": held.part(np.arange(len(held.images)), side)
        }

    return parts


def natural(file: Path, share: float) -> Callable[[int, int], dict[str, Part]]:
    """A set with its own class frequencies: `share` of each class trains, unless the file has a column split."""

    def parts(seed: int, side: int) -> dict[str, Part]:
        source = read(file)
        if source.split is not None:
            return {name: source.part(np.flatnonzero(source.split == name), side) for name in np.unique(source.split)}
        wanted = np.round(share * np.bincount(source.targets)).astype(int)
        rows = drawn(source.targets, wanted, np.random.default_rng(seed))
        return {name: source.part(some, side) for name, some in rows.items()}

    return parts
