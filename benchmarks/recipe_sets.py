"""The image sets of benchmarks.recipe: their files, and a division of each for every seed."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.common.files import atomic_path

MOST = 5_000  # images of a set
FOLDS = 20  # three are test, three calibration


@dataclass(frozen=True)
class ImageSet:
    """`group`: the column whose values are not divided between splits, "split" if the file has one, or None."""

    name: str
    file: Path
    group: str | None = None


def split_by_group(labels: np.ndarray, groups: np.ndarray, seed: int) -> np.ndarray:
    """(N,) "train", "calibration" or "test", about 70 : 15 : 15 in each class, no group in two of them.

    A class that would have nothing to train on goes to train as a whole.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    split = np.full(len(labels), "train", dtype="<U11")
    dealt = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed).split(labels, labels, groups)
    for number, (_, rows) in zip(range(6), dealt, strict=False):
        split[rows] = "test" if number < 3 else "calibration"
    split[~np.isin(labels, labels[split == "train"])] = "train"
    return split


def write_manifest(images: ImageSet, seed: int, file: Path, most: int = MOST) -> Path:
    """Write `images` with the splits of `seed` (columns image, label, split, group) to `file`."""
    table = pq.read_table(images.file)
    if len(table) > most:
        table = table.take(pa.array(np.sort(np.random.default_rng(seed).choice(len(table), most, replace=False))))
    labels = table["label"].to_numpy(zero_copy_only=False).astype(str)
    groups = table[images.group].to_numpy(zero_copy_only=False) if images.group else np.arange(len(table))
    groups = np.unique(groups.astype(str), return_inverse=True)[1]
    columns = {"image": table["image"], "label": labels, "split": split_by_group(labels, groups, seed)}
    if images.group:
        columns["group"] = table[images.group]
    with atomic_path(file) as temporary:
        pq.write_table(pa.table(columns), temporary, row_group_size=64)
    return file
